"""What of a draft's findings goes into a signed report: the reader's decisions, put to ``reports``."""

from collections.abc import Collection, Mapping

from pydicom.dataset import Dataset

from db.types import Decision
from reports.findings_signed import Kept, build_findings_signed
from reports.values import DraftIdentity, Equipment, SignOff


def build_signed_findings(
    draft_findings_sr: Dataset,
    decisions: Mapping[str, Decision],
    standing: Collection[str],
    *,
    identity: DraftIdentity,
    equipment: Equipment,
    sign_off: SignOff,
) -> Dataset | None:
    """Return the VERIFIED findings SR with what the reader accepted or edited; None when that is nothing.

    Args:
        draft_findings_sr: the findings SR of the draft the report was made from.
        decisions: Tracking UID → what the reader made of the Finding; one that nobody decided stays out.
        standing: SOP Instance UIDs of the evidence objects that go along with the signature.
        identity: of the signature.
        equipment: our product.
        sign_off: who signed.

    Raises:
        RefusedInputError: no valid object can be made of it.
    """
    kept = Kept(
        accepted={uid for uid, decision in decisions.items() if decision is Decision.ACCEPTED},
        edited={uid for uid, decision in decisions.items() if decision is Decision.EDITED},
        standing=standing,
    )
    return build_findings_signed(draft_findings_sr, kept, identity=identity, equipment=equipment, sign_off=sign_off)
