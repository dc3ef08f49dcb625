"""The linter's answer to a report as pages show it and signatures keep it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from config.review_settings import ReviewSettings
from dashboard.desk import DeskPage
from dashboard.desk_views import FindingView
from dashboard.dispatch_view import DispatchView, dispatch_view
from dashboard.people import Person, person, site, work
from dashboard.permissions import Permission
from dashboard.presentation import SECTION_TITLES
from dashboard.report_facts import report_facts
from db.lifecycle import Checked, text_sha256
from db.lifecycle.checking import LEAST_REASON, MOST_REASON
from db.lifecycle.viewing import has_seen_images, open_view, seconds_of
from db.queries import ReportDetail, report_detail
from db.types import ReportState
from safety.facts import Issue, ReportFacts, Severity
from safety.linter import RULES, VERSION, key_of, lint

_FIELD = "override-"


@dataclass(frozen=True)
class CheckView:
    """One issue: what is wrong, where, and the reason it is signed all the same."""

    issue: Issue
    key: str
    reason: str = ""

    @property
    def field(self) -> str:
        """Name of the form field that holds the reason."""
        return _FIELD + self.key

    @property
    def title(self) -> str:
        """What the rule watches over."""
        return RULES[self.issue.rule]

    @property
    def section_title(self) -> str:
        """The section it is in; empty when it is in none."""
        return SECTION_TITLES.get(self.issue.section, "")

    @property
    def blocks(self) -> bool:
        """Whether nothing is signed until it is gone."""
        return self.issue.severity is Severity.BLOCKING


@dataclass(frozen=True)
class Checks:
    """All issues of one text, and how long the reader looked at the images."""

    views: Sequence[CheckView]
    text_sha256: str
    view_s: float = 0.0

    @property
    def rules(self) -> str:
        """Version of the rules."""
        return VERSION

    @property
    def blocking(self) -> Sequence[CheckView]:
        """What has to change first."""
        return [one for one in self.views if one.blocks]

    @property
    def warnings(self) -> Sequence[CheckView]:
        """What is signed with a reason."""
        return [one for one in self.views if not one.blocks]

    @property
    def unanswered(self) -> Sequence[CheckView]:
        """Warnings without a reason that can be kept."""
        return [one for one in self.warnings if not LEAST_REASON <= len(one.reason) <= MOST_REASON]

    def answered(self, form: Mapping[str, str]) -> "Checks":
        """Return the checks with the reasons of a form; one of another issue is left out."""
        views = [replace(one, reason=" ".join(form.get(one.field, "").split())) for one in self.views]
        return replace(self, views=views)

    def checked(self, signed_sha256: str = "") -> Checked:
        """Return what is kept with a signature; ``signed_sha256`` where more is signed than was checked here."""
        issues = [
            {
                "rule": one.issue.rule,
                "severity": one.issue.severity.value,
                "words": one.issue.words,
                "section": one.issue.section,
                "start": one.issue.start,
                "end": one.issue.end,
                "finding": one.issue.finding_id,
                "reason": one.reason,
            }
            for one in self.views
        ]
        return Checked(signed_sha256 or self.text_sha256, VERSION, issues, self.view_s)


def check_report(
    db: Session, detail: ReportDetail, state: ReportState, sections: Mapping[str, str] | None = None
) -> Checks:
    """Return what the linter says of a report about to be signed as ``state`` by the person logged in.

    Args:
        db: a session, or that of the signing unit of work.
        detail: the report.
        state: PRELIMINARY lets a suspected critical result stay open: confirming is a radiologist's.
        sections: the text of a correction, or ``{"addendum": text}``; the report's own when None.
    """
    facts = report_facts(db, detail, sections)
    if state is ReportState.ADDENDED:
        facts = replace(facts, is_addendum=True)
    views = _views(facts, site().review, state)
    said = detail.report.sections if sections is None else sections
    return Checks(views, text_sha256(said), seconds_of(db, detail.study.id, person().id))


def _views(facts: ReportFacts, review: ReviewSettings, state: ReportState) -> list[CheckView]:
    blocking = set(review.blocking_rules)
    if state is ReportState.PRELIMINARY:
        blocking.discard("critical_open")
    return [CheckView(one, key_of(one)) for one in lint(facts, blocking)]


@dataclass(frozen=True)
class CheckingView:
    """What the reading page shows of checks, images and dispatch."""

    checks: Checks | None  # None where nothing is to be signed by this reader
    dispatch: DispatchView | None  # of the newest signature
    hides_impression: bool
    view_s: float
    least_view_s: float


def checking_panel(db: Session, page: DeskPage) -> CheckingView:
    """Return the panel of the reading page; for who may work on the report, the page counts as opened from now on."""
    if person().may(Permission.REPORT_EDIT):
        with work() as uow:
            open_view(uow, page.study.id, person().id)
    return checking_view(db, page)


def checking_view(db: Session, page: DeskPage) -> CheckingView:
    """Return checks of the text as it is saved, and what became of the newest signature."""
    detail = report_detail(db, page.report.id) if page.can_edit else None
    state = ReportState.FINAL if person().may(Permission.REPORT_FINAL) else ReportState.PRELIMINARY
    return CheckingView(
        checks=check_report(db, detail, state) if detail else None,
        dispatch=dispatch_view(db, page.study.id),
        hides_impression=hides_impression(db, page, person()),
        view_s=seconds_of(db, page.study.id, person().id),
        least_view_s=site().review.min_view_s,
    )


def hides_impression(db: Session, page: DeskPage, reader: Person) -> bool:
    """Return whether the AI's impression is kept from this reader, who has not had an image on the screen."""
    if not site().review.hide_impression or page.is_signed:
        return False
    ai = str(page.draft.sections.get("impression") or "") if page.draft else ""
    now = str(page.report.sections.get("impression") or "")
    return bool(ai) and now == ai and not has_seen_images(db, page.study.id, reader.id)


def conceal(db: Session, page: DeskPage) -> DeskPage:
    """Return the page without the AI's impression while this reader is not to see it: what is not there cannot leak."""
    if not hides_impression(db, page, person()):
        return page
    hidden = SECTION_TITLES["impression"]
    return replace(
        page,
        sections=[one for one in page.sections if one.key != "impression"],
        revisions=[replace(one, changes=[name for name in one.changes if name != hidden]) for one in page.revisions],
        findings=[_without_impression(one) for one in page.findings],
        absent=[_without_impression(one) for one in page.absent],
    )


def _without_impression(finding: FindingView) -> FindingView:
    return replace(finding, told={key: said for key, said in finding.told.items() if key != "impression"})
