"""Experts and sources that do exactly what a test says, and small Studies for them."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from tests.fakes import card as plain_card
from worker.experts.base import Classification, Expert, ExpertInput, ModelCard, SegmentationResult
from worker.experts.packages import IntendedUse
from worker.radiograph import Radiograph
from worker.volume import Volume

LABELS = {1: "liver", 3: "spleen"}
UIDS = tuple(f"1.2.826.0.1.3680043.8.498.77.{n}" for n in range(1, 40))
ANY_CT = IntendedUse(modalities=("CT",), statement="Tests.")


def ct_card(name: str = "BOXES", **changes) -> ModelCard:
    return replace(plain_card(name, "CT", labels=LABELS), **changes)


def ct_volume(shape=(3, 4, 5), *, first_uid: int = 0) -> Volume:
    affine = np.diag([5.0, 0.7, 0.7, 1.0])
    affine[:3, 3] = (-101.25, -80.5, 1234.0625)
    return Volume(
        array=np.linspace(-1000, 1000, int(np.prod(shape)), dtype=np.float32).reshape(shape),
        affine=affine,
        sop_instance_uids=UIDS[first_uid : first_uid + shape[0]],
        frame_numbers=(1,) * shape[0],
        series_instance_uid=UIDS[30],
        frame_of_reference_uid=UIDS[31],
        modality="CT",
    )


def ct_study(shape=(3, 4, 5)) -> ExpertInput:
    return ExpertInput(volume=ct_volume(shape))


def film_study() -> ExpertInput:
    pixels = np.linspace(0, 255, 30, dtype=np.float32).reshape(5, 6)
    return ExpertInput(
        radiograph=Radiograph(
            pixels=pixels,
            sop_instance_uid=UIDS[20],
            series_instance_uid=UIDS[21],
            view_position="PA",
            modality="DX",
            pixel_spacing_mm=(0.143, 0.143),
        )
    )


def box(card: ModelCard, study: ExpertInput, argument: str = "") -> SegmentationResult:
    """The first slice is liver."""
    assert study.volume is not None
    labels = np.zeros(study.volume.array.shape, dtype=np.uint8)
    labels[0] = 1
    return SegmentationResult(card, argument, 0.01, labels, dict(LABELS), study.volume)


def film_result(card: ModelCard, study: ExpertInput, argument: str = "") -> Classification:
    assert study.radiograph is not None
    return Classification(card, argument, 0.01, {"liver": 0.25, "spleen": None}, 0.5, study.radiograph.sop_instance_uid)


@dataclass(eq=False)
class DoingExpert:
    """Calls ``do(card, study, argument)``; holds one array as its weights."""

    card: ModelCard
    do: Callable[..., object]
    weights: np.ndarray = field(default_factory=lambda: np.zeros(8))

    def run(self, study, argument):
        return self.do(self.card, study, argument)


@dataclass(eq=False)
class FakeSource:
    """A source whose Expert does what it is told; ``do`` may depend on the device."""

    card: ModelCard = field(default_factory=ct_card)
    do: Callable[..., object] = box
    memory_mb: float = 100.0
    intended_use: IntendedUse = ANY_CT
    by_device: Callable[[str], Callable[..., object]] | None = None
    loads: list[str] = field(default_factory=list)

    def load(self, device: str) -> Expert:
        self.loads.append(device)
        return DoingExpert(self.card, self.by_device(device) if self.by_device else self.do)  # type: ignore[return-value]
