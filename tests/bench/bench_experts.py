"""What warm Experts, kept features and prompts in chunks save, in one run on the CPU: ``make bench-experts``.

(a) A warm call against what the published demonstration does: read the weights and build the network at every
call. Both start with the libraries imported. The shipped demonstration packages: their weights are some megabytes,
so the inputs are small as well (a film, one window of CT, one head); nothing is kept of the call before. Most of a
BRATS call is registration: its bar only says that nothing is lost.
(b) The five arguments a CT is asked: features kept between them against every argument read anew.
(c) Peak memory of VISTA3D at 1 and at 117 classes, a process each: the published network (48 filters, 48
features, windows of 128³, random weights) on 256 × 256 × 128 voxels of 1.5 mm. This part takes some minutes.
(d) The same with a narrow network beside MONAI's own path, which keeps a logit per class and voxel: peak memory,
and how many voxels of the two label maps differ.
"""

import json
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from worker.experts.base import Expert, ExpertInput, ModelCard
from worker.experts.packages import open_package
from worker.experts.sources import PackageSource
from worker.experts.vista3d import Vista3dConfig, Vista3dExpert, build_vista3d, prepared
from worker.experts.vista3d_labels import EVERYTHING, NAMES
from worker.radiograph import Radiograph
from worker.volume import Volume

ROOT = Path(__file__).resolve().parents[2]
REPEATS = 3
SIZES = {
    "published": (Vista3dConfig(weights="-"), (128, 256, 256)),
    "narrow": (Vista3dConfig(weights="-", init_filters=8, patch=(64, 64, 64), bfloat16=False), (96, 128, 128)),
}
ARGUMENTS = ("everything", "organs", "cardiovascular", "gastrointestinal", "skeleton")


def main() -> int:
    """Print the figures, then one line per bar; 1 when one of them is short."""
    logging.getLogger().setLevel(logging.ERROR)
    bars = [*_warm_calls(), _kept_features(), *_memory()]
    for name, value, target, reached in bars:
        _say(f"bar {name} {value:.2f} {target:g} {'ok' if reached else 'short'}")
    return int(not all(reached for *_, reached in bars))


Bar = tuple[str, float, float, bool]


def _warm_calls() -> list[Bar]:
    rng = np.random.default_rng(0)
    film = Radiograph(rng.uniform(0, 255, (1024, 1024)).astype(np.float32), "1", "1", "PA", "DX", None)
    brain = _volume(_head(rng, (32, 128, 128)), 5.0, 1.8, "MR")
    studies = {
        "cxr": (ExpertInput(radiograph=film), "", 1.5),
        "vista3d": (ExpertInput(volume=_volume(_tissue(rng, (20, 128, 128)), 4.0, 2.0)), "organs", 1.0),
        "brats": (ExpertInput(brain_mr=dict.fromkeys(("T1c", "T1", "T2", "FLAIR"), brain)), "", 1.0),
    }
    return [_warm_call(name, *asked) for name, asked in studies.items()]


def _warm_call(name: str, study: ExpertInput, argument: str, target: float) -> Bar:
    source = PackageSource(open_package(ROOT / "worker" / "models" / f"demo-{name}"))
    expert = source.load("cpu")
    _anew(expert, study, argument)  # what libraries prepare once
    warm = _median(lambda: _anew(expert, study, argument))
    cold = _median(lambda: source.load("cpu").run(study, argument))
    _say(f"{name}: warm call {warm:.2f} s, load and call {cold:.2f} s")
    return f"warm-call-{name}", cold / warm, target, cold / warm >= target


def _kept_features() -> Bar:
    source = PackageSource(open_package(ROOT / "worker" / "models" / "demo-vista3d"))
    expert = source.load("cpu")
    volume = _volume(_tissue(np.random.default_rng(1), (60, 192, 192)), 4.0, 2.0)
    study = ExpertInput(volume=volume)

    def kept() -> None:
        _anew(expert, study, ARGUMENTS[0])
        for argument in ARGUMENTS[1:]:
            expert.run(study, argument)

    def anew() -> None:
        for argument in ARGUMENTS:
            _anew(expert, study, argument)

    kept()
    with_features, without = _median(kept), _median(anew)
    _say(f"vista3d: five arguments with kept features {with_features:.2f} s, each anew {without:.2f} s")
    return "five-arguments", without / with_features, 2.0, without / with_features >= 2.0


def _memory() -> list[Bar]:
    one, every = (_peak("published", "ours", classes) for classes in (1, 117))
    _say(f"published size: peak {one['peak_mb']:.0f} MB at 1 class, {every['peak_mb']:.0f} MB at 117")
    growth = every["peak_mb"] / one["peak_mb"]
    ours, theirs = (_peak("narrow", path, 117) for path in ("ours", "monai"))
    differing = int((np.array(ours["labels"]) != np.array(theirs["labels"])).sum())
    _say(f"narrow size, 117 classes: ours adds {ours['added_mb']:.0f} MB, MONAI's path {theirs['added_mb']:.0f} MB")
    _say(f"narrow size, 117 classes: {differing} of {len(ours['labels'])} voxels differ")
    saving = theirs["added_mb"] / ours["added_mb"]
    return [
        ("memory-117-classes-at-most", growth, 1.3, growth <= 1.3),
        ("memory-against-monai", saving, 1.5, saving >= 1.5),
        ("voxels-differing-from-monai-at-most", float(differing), 0.0, differing == 0),
    ]


def _peak(size: str, path: str, classes: int) -> dict[str, Any]:
    """Run `measure` in a process of its own."""
    command = [sys.executable, __file__, size, path, str(classes)]
    answer: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return answer


def measure(size: str, path: str, classes: int) -> None:
    """Print the peak of this process, what the call added to it, and for the narrow size the labels."""
    config, shape = SIZES[size]
    torch.manual_seed(0)
    network = build_vista3d(config).eval()
    volume = _volume(_tissue(np.random.default_rng(2), shape), 1.5, 1.5)
    prompts, before = EVERYTHING[:classes], _peak_mb()
    if path == "ours":
        card = ModelCard("VISTA3D", "0", "segmentation", "CT", "", "", ("everything",), NAMES, {}, "-", True)
        labels = Vista3dExpert(card, config, network, 12_000.0).segment(volume, prompts).transpose(2, 1, 0)
    else:
        labels = _monai(network, config, volume, prompts)
    peak = _peak_mb()
    shown = np.ascontiguousarray(labels).ravel().tolist() if size == "narrow" else []
    _say(json.dumps({"peak_mb": peak, "added_mb": peak - before, "labels": shown}))


def _monai(network: Any, config: Vista3dConfig, volume: Volume, prompts: tuple[int, ...]) -> Any:
    """Return the label map of the library's own path, every class at once; turned as ours."""
    from monai.apps.vista3d.transforms import VistaPostTransformd
    from monai.inferers import sliding_window_inference

    ready = prepared(volume, config)
    ids = torch.tensor(prompts)
    with torch.inference_mode():
        logits = sliding_window_inference(
            torch.from_numpy(ready.image)[None, None], config.patch, 1, network, overlap=config.overlap,
            transpose=True, class_vector=ids[:, None],
        )  # fmt: skip
        seen = VistaPostTransformd("pred")({"pred": logits[0], "label_prompt": ids})["pred"][0]
    whole = np.zeros(ready.shape, np.uint8)
    whole[ready.box] = ready.axes.undo(seen.numpy().astype(np.uint8))
    return whole.transpose(2, 1, 0)


def _anew(expert: Expert, study: ExpertInput, argument: str) -> None:
    if isinstance(expert, Vista3dExpert):
        expert.kept.clear()
    expert.run(study, argument)


def _median(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _tissue(rng: np.random.Generator, shape: tuple[int, int, int]) -> Any:
    return rng.normal(40, 200, shape).astype(np.float32).clip(-250, 1000)


def _head(rng: np.random.Generator, shape: tuple[int, int, int]) -> Any:
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, count) for count in shape], indexing="ij"))
    head = (place**2).sum(axis=0) < 0.7
    return np.where(head, rng.normal(400, 80, shape).clip(50), 0).astype(np.float32)


def _volume(array: Any, slice_mm: float, pixel_mm: float, modality: str = "CT") -> Volume:
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = slice_mm, pixel_mm, pixel_mm, 1
    count = len(array)
    return Volume(array, affine, ("1",) * count, (1,) * count, "1", "1", modality)


def _peak_mb() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1e3


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))
        raise SystemExit(0)
    raise SystemExit(main())
