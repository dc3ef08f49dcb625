"""What was checked before a signature: kept with it, and refused when it is of another text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.errors import LifecycleError, RefusedInputError
from db.report_models import Signature
from db.signing_models import SafetyCheck
from db.uow import UnitOfWork

BLOCKING = "blocking"
LEAST_REASON, MOST_REASON = 5, 300  # characters


@dataclass(frozen=True)
class Checked:
    """The linter's answer to one text, and the signer's to it.

    Attributes:
        text_sha256: of what was checked (`db.lifecycle.review.text_sha256`).
        rules: version of the rules.
        issues: each with ``rule``, ``severity``, ``words``, ``section``, ``start``, ``end``, ``finding``, ``reason``.
        view_s: seconds the signer had looked at the images.
    """

    text_sha256: str
    rules: str
    issues: Sequence[Mapping[str, Any]] = ()
    view_s: float = 0.0


def keep_check(uow: UnitOfWork, signature: Signature, checked: Checked) -> dict[str, object]:
    """Keep what was checked beside its signature; return what the audit event says of it.

    Raises:
        LifecycleError: it is of another text, or something in it blocks.
        RefusedInputError: a warning without a reason of 5 to 300 characters.
    """
    if checked.text_sha256 != signature.text_sha256:
        raise LifecycleError("the text changed since it was checked: look at the checks again")
    if any(one["severity"] == BLOCKING for one in checked.issues):
        raise LifecycleError("a check blocks this signature: change the text or the decision first")
    if any(not LEAST_REASON <= len(one["reason"]) <= MOST_REASON for one in checked.issues):
        raise RefusedInputError(f"each check that is overridden needs a reason of {LEAST_REASON} characters or more")
    uow.session.add(
        SafetyCheck(
            signature_id=signature.id,
            report_id=signature.report_id,
            text_sha256=checked.text_sha256,
            rules=checked.rules,
            issues=[dict(one) for one in checked.issues],
            view_s=checked.view_s,
        )
    )
    said = [{name: one[name] for name in ("rule", "section", "finding", "reason")} for one in checked.issues]
    return {"rules": checked.rules, "overridden": said, "view_s": round(checked.view_s, 1)}
