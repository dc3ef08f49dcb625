"""Expert CXR: the TorchXRayVision ensemble, 18 findings on one frontal chest radiograph."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn
from torchvision.models import resnet50

from config.errors import ExpertError, ModelPackageError
from worker.experts.attention import AttentionMaps, central_square, grad_cam, last_features
from worker.experts.base import Classification, ExpertInput, ModelCard
from worker.experts.calibration import Calibration
from worker.experts.packages import ModelPackage
from worker.experts.weights import load_network, read_state
from worker.radiograph import Radiograph

# Library order (torchxrayvision.datasets.default_pathologies); the index is the label's value.
LABELS = (
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis",
    "Effusion", "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia",
    "Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum",
)  # fmt: skip
THRESHOLD = 0.5  # op_norm puts every member's operating point here


class MemberConfig(BaseModel):
    """One network of the ensemble.

    Attributes:
        name: how ``label_members`` calls it.
        file: its weights.
        architecture: ``"densenet"`` (torchxrayvision.models.DenseNet) or ``"resnet50"``.
        input_px: side of the square it sees.
        growth_rate, block_config, num_init_features: of the DenseNet; the defaults are DenseNet-121.
        op_thresholds: 18 operating points, library order; None where the member has no output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    file: str
    architecture: str = Field(pattern=r"^(densenet|resnet50)$")
    input_px: int = Field(gt=0)
    growth_rate: int = 32
    block_config: tuple[int, ...] = (6, 12, 24, 16)
    num_init_features: int = 64
    op_thresholds: tuple[float | None, ...] = Field(min_length=len(LABELS), max_length=len(LABELS))


class EnsembleConfig(BaseModel):
    """The ensemble: its members, and which of them speak for a label.

    Attributes:
        members: the networks.
        label_members: label → names of the members averaged for it; a label not named here is
            averaged over all members, including the constant 0.5 of members that lack it, which
            is what the published vision-language checkpoints were trained on.
        antialias: whether the resize is antialiased (torchxrayvision ≥ 1.3.2) or not (1.2.4).
        not_assessed: labels without training data: they answer None, never a number.
        calibration: from ensemble score to probability, for people; None where nobody measured it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    members: tuple[MemberConfig, ...] = Field(min_length=1)
    label_members: Mapping[str, tuple[str, ...]] = {}
    antialias: bool = True
    not_assessed: tuple[str, ...] = ()
    calibration: Calibration | None = None


@dataclass(frozen=True)
class ChestXrayExpert:
    """The ensemble, loaded. ``run`` ignores the argument, as the published system does."""

    card: ModelCard
    config: EnsembleConfig
    networks: Mapping[str, nn.Module]
    device: str = "cpu"

    @classmethod
    def load(cls, package: ModelPackage, *, device: str = "cpu") -> Self:
        """Build every member from its package.

        Raises:
            ModelPackageError: configuration or weights do not make this ensemble.
        """
        config = ensemble_config(package.manifest.network, source=package.folder.name)
        networks: dict[str, nn.Module] = {}
        for member in config.members:
            network = build_member(member)
            state = _member_state(read_state(package.path(member.file), classes=pickled_classes()))
            load_network(network, state, source=f"{package.folder.name}: {member.file}")
            networks[member.name] = network.to(device)
        return cls(card=package.card, config=config, networks=networks, device=device)

    def run(self, study: ExpertInput, argument: str) -> Classification:
        """Return 18 probabilities, each 0.5 at its operating point, and heat maps of the positive labels.

        Raises:
            ExpertError: no radiograph, or values outside 0…255, or an output that is no number.
        """
        if study.radiograph is None:
            raise ExpertError(f"{self.card.name} reads a frontal chest radiograph; the study offers none")
        started = time.perf_counter()
        image = scaled(study.radiograph.pixels)
        outputs: dict[str, NDArray[np.float64]] = {}
        features: dict[str, torch.Tensor] = {}
        for member in self.config.members:
            outputs[member.name], features[member.name] = self._member_output(member, image)
        scores = average(outputs, self.config)
        calibration = self.config.calibration
        return Classification(
            card=self.card,
            argument=argument,
            seconds=time.perf_counter() - started,
            probabilities=scores,
            threshold=THRESHOLD,
            sop_instance_uid=study.radiograph.sop_instance_uid,
            calibrated=calibration.calibrated(scores) if calibration else {},
            calibration=calibration.id if calibration else "",
            details=self._details(study.radiograph),
            heat_maps=self._attention(scores, features, study.radiograph),
        )

    def _attention(
        self, scores: Mapping[str, float | None], features: Mapping[str, torch.Tensor], radiograph: Radiograph
    ) -> AttentionMaps:
        """Return where the networks looked for each positive label, as far as one of them says so."""
        cells: dict[str, list[NDArray[np.float32]]] = {}
        for index, label in enumerate(LABELS):
            score = scores[label]
            if score is None or score < THRESHOLD:
                continue
            speaking = [member for member in self._speakers(label) if member.op_thresholds[index] is not None]
            maps = [grad_cam(self.networks[one.name], features[one.name], index) for one in speaking]
            if any(one.max() > 0 for one in maps):
                cells[label] = maps
        rows, columns = radiograph.pixels.shape
        return AttentionMaps(cells, (rows, columns))

    def _speakers(self, label: str) -> list[MemberConfig]:
        names = self.config.label_members.get(label)
        return [member for member in self.config.members if names is None or member.name in names]

    def _details(self, radiograph: Radiograph) -> dict[str, Any]:
        calibration = self.config.calibration
        return {
            "source_shape": list(radiograph.pixels.shape),
            "members": {member.name: {"file": member.file, "input_px": member.input_px}
                        for member in self.config.members},
            "antialias": self.config.antialias,
            "dtype": "float32",
            "autocast": "off",
            "device": self.device,
            "calibration": calibration.model_dump(mode="json", exclude={"labels"}) if calibration else None,
            "versions": {name: version(name) for name in ("torch", "torchvision", "torchxrayvision")},
        }  # fmt: skip

    def _member_output(self, member: MemberConfig, image: torch.Tensor) -> tuple[NDArray[np.float64], torch.Tensor]:
        fitted = fit(image, member.input_px, antialias=self.config.antialias).to(self.device)
        with torch.inference_mode(), last_features(self.networks[member.name]) as seen:
            logits: torch.Tensor = self.networks[member.name](fitted)
        probabilities = torch.sigmoid(logits)[0].double().cpu().numpy()
        if not np.isfinite(probabilities).all():
            raise ExpertError(f"{self.card.name}: {member.name} gave an output that is no number")
        return op_norm(probabilities, member.op_thresholds), seen[-1]


def ensemble_config(network: Mapping[str, object], *, source: str) -> EnsembleConfig:
    """Check the manifest's network part and return it typed.

    Raises:
        ModelPackageError: it does not describe an ensemble; ``source`` names the package.
    """
    try:
        config = EnsembleConfig.model_validate(network)
    except ValidationError as exc:
        raise ModelPackageError(f"{source}: the manifest describes no ensemble: {exc}") from exc
    members = {member.name for member in config.members}
    for label, names in config.label_members.items():
        if label not in LABELS or not names or not set(names) <= members:
            raise ModelPackageError(f"{source}: label_members of {label} name unknown labels or members")
    if not set(config.not_assessed) <= set(LABELS):
        raise ModelPackageError(f"{source}: not_assessed names an unknown label")
    if config.calibration and not set(config.calibration.labels) <= set(LABELS):
        raise ModelPackageError(f"{source}: calibration names an unknown label")
    return config


def build_member(member: MemberConfig) -> nn.Module:
    """Build one member without weights: ``(1, 1, side, side)`` in −1024…1024 → ``(1, 18)`` logits."""
    if member.architecture == "resnet50":
        # torchxrayvision.models.ResNet downloads in its constructor; this is what it wraps.
        network: nn.Module = resnet50(num_classes=len(LABELS), weights=None)
        network.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        return network
    from torchxrayvision.models import DenseNet

    densenet: nn.Module = DenseNet(
        growth_rate=member.growth_rate,
        block_config=member.block_config,
        num_init_features=member.num_init_features,
        num_classes=len(LABELS),
        weights=None,
    )
    return densenet


def scaled(pixels: NDArray[np.float32]) -> torch.Tensor:
    """Return ``(1, 1, side, side)``: the central square of a radiograph, 0…255 mapped to −1024…1024.

    Raises:
        ExpertError: not a 2-D image of 0…255.
    """
    if pixels.ndim != 2 or min(pixels.shape) == 0:
        raise ExpertError(f"a radiograph is (rows, columns), this is {pixels.shape}")
    if not np.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 255:
        raise ExpertError("radiograph values must lie in 0…255")
    top, left, side = central_square((pixels.shape[0], pixels.shape[1]))
    square = np.ascontiguousarray(pixels[top : top + side, left : left + side], dtype=np.float32)
    return ((2.0 * torch.from_numpy(square) / 255.0 - 1.0) * 1024.0)[None, None]


def fit(image: torch.Tensor, side: int, *, antialias: bool) -> torch.Tensor:
    """Resize ``(1, 1, n, n)`` to ``(1, 1, side, side)``, bilinear."""
    return nn.functional.interpolate(
        image, size=(side, side), mode="bilinear", align_corners=False, antialias=antialias
    )


def op_norm(probabilities: NDArray[np.float64], thresholds: Sequence[float | None]) -> NDArray[np.float64]:
    """Move each label's operating point to 0.5; a label without one is the constant 0.5.

    Below the threshold t, p becomes p / 2t; from t on, 1 − (1 − p) / 2(1 − t)
    (torchxrayvision.models.op_norm).
    """
    points = np.array([np.nan if value is None else value for value in thresholds], dtype=np.float64)
    below = probabilities / (2.0 * points)
    above = 1.0 - (1.0 - probabilities) / (2.0 * (1.0 - points))
    normalised = np.where(probabilities < points, below, above)
    return np.where(np.isnan(points), THRESHOLD, normalised)


def average(outputs: Mapping[str, NDArray[np.float64]], config: EnsembleConfig) -> dict[str, float | None]:
    """Return label → plain mean over the members that speak for it; None where it is not assessed."""
    result: dict[str, float | None] = {}
    for index, label in enumerate(LABELS):
        names = config.label_members.get(label, tuple(outputs))
        assessed = label not in config.not_assessed
        result[label] = float(np.mean([outputs[name][index] for name in names])) if assessed else None
    return result


def pickled_classes() -> list[type]:
    """Return the closed list of classes a published DenseNet file may hold: layers, nothing that acts."""
    from collections import OrderedDict

    from torchxrayvision import models

    own = [models.DenseNet, models._DenseBlock, models._DenseLayer, models._Transition]
    layers = [nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.Linear]
    return [*own, *layers, OrderedDict, set]


def _member_state(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Drop the operating points a saved module may carry: the manifest's are used."""
    return {name: tensor for name, tensor in state.items() if name != "op_threshs"}
