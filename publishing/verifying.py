"""Whether text and objects are still what was signed: every hash computed anew from what is kept."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.orm import Session

from db.lifecycle.signing import objects_sha256
from db.queries.dispatch import signed_objects, signed_text_is_kept
from db.report_models import Signature

_BLOCK = 1024 * 1024


@dataclass(frozen=True)
class Verified:
    """The outcome for one signature.

    Attributes:
        text: the signed text is kept unchanged.
        objects: number of objects whose bytes are those that were signed.
        altered: file names of objects that are gone or have other bytes.
        bound: the objects are those the signature names; True for one made before signatures named them.
    """

    text: bool
    objects: int
    altered: tuple[str, ...]
    bound: bool

    @property
    def holds(self) -> bool:
        """Whether everything is what was signed."""
        return self.text and self.bound and not self.altered


def verify_signature(session: Session, signature: Signature, results_dir: Path) -> Verified:
    """Compute the hashes of a signature's text and objects anew, and compare them with the signature's own."""
    now: dict[str, str] = {}
    altered = []
    for made in signed_objects(session, signature.id):
        digest = _digest(results_dir / made.path)
        now[made.sop_instance_uid] = digest
        if digest != made.sha256:
            altered.append(made.path.rpartition("/")[2])
    bound = not signature.objects_sha256 or objects_sha256(now) == signature.objects_sha256
    return Verified(signed_text_is_kept(session, signature), len(now) - len(altered), tuple(sorted(altered)), bound)


def _digest(path: Path) -> str:
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                found.update(block)
    except OSError:
        return ""
    return found.hexdigest()
