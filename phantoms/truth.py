"""What is really there in a synthetic study: kept apart from the DICOM objects, never sent with them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from config.errors import RefusedInputError


@dataclass(frozen=True)
class Truth:
    """Ground truth of one synthetic study; holds nothing that names a patient.

    Attributes:
        modality: Modality (0008,0060): ``"CT"``, ``"MR"``, ``"DX"`` …
        findings: names of the findings present; empty for a normal study.
        label_names: label map value to structure name.
        volumes_ml: structure name to volume in millilitres.
        counts: finding name to number of separate lesions.
    """

    modality: str
    findings: frozenset[str]
    label_names: dict[int, str]
    volumes_ml: dict[str, float]
    counts: dict[str, int]

    def to_json(self) -> str:
        """Return the truth as one JSON object with sorted keys."""
        return json.dumps(asdict(self) | {"findings": sorted(self.findings)}, sort_keys=True, indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Truth":
        """Read what :meth:`to_json` wrote.

        Raises:
            RefusedInputError: not JSON, or fields missing or of the wrong shape.
        """
        try:
            raw = json.loads(text)
            return cls(
                modality=str(raw["modality"]),
                findings=frozenset(map(str, raw["findings"])),
                label_names={int(k): str(v) for k, v in raw["label_names"].items()},
                volumes_ml={str(k): float(v) for k, v in raw["volumes_ml"].items()},
                counts={str(k): int(v) for k, v in raw["counts"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RefusedInputError(f"not a truth file: {type(error).__name__}") from error


def label_volumes_ml(labels: NDArray[np.uint8], names: dict[int, str], voxel_ml: float) -> dict[str, float]:
    """Return the volume in millilitres of each named label that occurs in ``labels``."""
    counts = np.bincount(labels.ravel(), minlength=256)
    return {name: round(float(counts[k]) * voxel_ml, 3) for k, name in names.items() if counts[k]}


def save_labels(path: Path, labels: NDArray[np.uint8], affine: NDArray[np.float64]) -> None:
    """Write a label map ``(slices, rows, columns)`` and its index-to-LPS affine as a compressed ``.npz``."""
    np.savez_compressed(path, labels=labels, affine=affine)


def load_labels(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Read what :func:`save_labels` wrote.

    Raises:
        RefusedInputError: not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["labels"], stored["affine"]
    except (ValueError, KeyError, OSError) as error:
        raise RefusedInputError(f"not a label map file: {type(error).__name__}") from error
