"""The linter: every rule over one report, and which of them block a signature."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from safety import of_findings, of_patient, of_text
from safety.facts import Issue, ReportFacts, Severity

VERSION = "1"  # of the rules; kept with every signature
# rule id -> what it watches over, for settings and records
RULES: Mapping[str, str] = {
    "placeholder": "An open field of a template is left",
    "impression_empty": "No impression",
    "date_future": "A date in the future",
    "comparison": "A comparison without an earlier study",
    "critical_open": "A suspected critical result nobody answered",
    "critical_untold": "A critical result without a record of who was told",
    "sex": "Organs or words of the other sex",
    "age": "Another age than the patient's",
    "modality": "Another modality than the study's",
    "body_part": "Another body part than the study's",
    "study_side": "The other side of the body part examined",
    "rejected_asserted": "The text asserts a rejected finding",
    "accepted_denied": "The text denies an accepted finding",
    "accepted_missing": "The text leaves out an accepted finding",
    "edited_unchanged": "The AI's sentence of an edited finding is still there",
    "absent_asserted": "The text asserts what the expert model did not find",
    "laterality": "Another side than was measured",
    "side_conflict": "Findings and impression name opposite sides",
    "number": "A size that nothing measured agrees with",
}
BLOCKING = ("placeholder", "critical_open", "rejected_asserted")
_CHECKS: tuple[Callable[[ReportFacts], Iterable[Issue]], ...] = (
    of_text.critical,
    of_findings.decisions,
    of_findings.sides,
    of_patient.study_side,
    of_patient.sex,
    of_patient.age,
    of_patient.modality,
    of_patient.body_part,
    of_findings.sizes,
    of_text.comparisons,
    of_text.future_dates,
    of_text.placeholders,
    of_text.empty_impression,
)


def lint(facts: ReportFacts, blocking: Collection[str] = BLOCKING) -> list[Issue]:
    """Return what is wrong with a report, the blocking first, else in the order of the checks; each thing once."""
    found = dict.fromkeys(issue for check in _CHECKS for issue in check(facts))
    issues = [replace(one, severity=Severity.BLOCKING) if one.rule in blocking else one for one in found]
    return sorted(issues, key=lambda one: one.severity is not Severity.BLOCKING)


def key_of(issue: Issue) -> str:
    """Return what names an issue on a form: the same while rule, place and words stay the same."""
    parts = (issue.rule, issue.section, str(issue.start), issue.finding_id, issue.words)
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
