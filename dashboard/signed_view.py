"""What stands behind a signed report: its signatures computed anew, what was overridden, how long images were seen."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from dashboard.desk import DeskPage
from dashboard.dispatch_view import DispatchView, dispatch_view
from dashboard.people import person, site
from dashboard.permissions import Permission
from db.queries.dispatch import Viewing, check_of, viewings
from db.report_models import Signature
from db.signing_models import SafetyCheck
from publishing.verifying import Verified, verify_signature
from safety.linter import RULES


@dataclass(frozen=True)
class Proved:
    """One signature, whether it still holds, and what was checked before it."""

    signature: Signature
    verified: Verified
    check: SafetyCheck | None

    def title_of(self, rule: str) -> str:
        """Return what a rule watches over; its id when this release does not know it."""
        return RULES.get(rule, rule)


@dataclass(frozen=True)
class SignedView:
    """The signatures of a report, newest first, and what became of the newest."""

    proofs: Sequence[Proved]
    dispatch: DispatchView | None
    viewings: Sequence[Viewing]  # for auditors


def signed_view(db: Session, page: DeskPage) -> SignedView:
    """Return what the report page shows beside the text; every hash is computed from what is kept now."""
    results = site().results_dir
    proofs = [Proved(one, verify_signature(db, one, results), check_of(db, one.id)) for one in page.signatures]
    seen = viewings(db, page.study.id) if person().may(Permission.AUDIT) else []
    return SignedView(proofs, dispatch_view(db, page.study.id), seen)
