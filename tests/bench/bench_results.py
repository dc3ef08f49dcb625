"""How long a Segmentation of 60 structures takes and what it needs, beside highdicom, dcmqi and pydicom-seg.

`make bench-results`. The input is a CT of 512 x 512 x 300 with 60 ellipsoids, a label map. Everybody writes a BINARY
Segmentation file of it, frames without a voxel left out, in a process of its own; figures are medians of three.

- ours: `reports.segmentation.build_segmentation` and the writing of the file.
- highdicom, one segment: what its own constructor takes for an object of one structure from a ready 0/1 mask, the
  writing of the file included; mean over every fifth structure. This is the measure: ours has 60 times as long, twice.
- dcmqi: `itkimage2segimage`, the whole process: it also reads the CT and the label map, as it always has to.
- pydicom-seg 0.4.1 (archived, needs pydicom 2): `MultiClassWriter` and the writing of the file, in a throw-away
  environment that pip makes; without a network it is not compared.

Peak RSS is of the whole process, libraries and input included. Options: --quick measures once; --folder puts the files
elsewhere.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SLICES, SIDE, STRUCTURES = 300, 512, 60
SINGLES = range(1, STRUCTURES + 1, 5)
GB = 1 << 30
PYDICOM_SEG = ("pydicom-seg==0.4.1", "pydicom<3", "numpy<2", "setuptools<81")
_PYDICOM_SEG = """
import json, sys, time
from pathlib import Path
import pydicom, pydicom_seg, SimpleITK as sitk
folder = Path(sys.argv[1])
template = pydicom_seg.template.from_dcmqi_metainfo(folder / "meta.json")
labels = sitk.ReadImage(str(folder / "labels.nrrd"))
source = [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted((folder / "ct").glob("*.dcm"))]
started = time.perf_counter()
seg = pydicom_seg.MultiClassWriter(template).write(labels, source)
seg.save_as(folder / "pydicom_seg.dcm")
print(json.dumps({"seconds": time.perf_counter() - started, "frames": int(seg.NumberOfFrames)}))
"""


@dataclass(frozen=True)
class Measured:
    """One run: seconds of the work, peak RSS of its process in bytes, frames and bytes of what it wrote."""

    seconds: float
    peak_rss: int
    frames: int
    size: int


def main() -> int:
    """Measure everybody and print the bars; 1 when one is short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, default=None)
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        WORK[options.work[0]](Path(options.work[1]))
        return 0
    folder = Path(tempfile.mkdtemp(prefix="bench-results-", dir=options.folder))
    try:
        bars = _compare(folder, repeats=1 if options.quick else 3)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value, target in bars:
        _say(f"bar {name} {value:.2f} {target:g} {'ok' if value <= target else 'short'}")
    return int(any(value > target for _, value, target in bars))


def _compare(folder: Path, *, repeats: int) -> list[tuple[str, float, float]]:
    _run([sys.executable, __file__, "--work", "input", str(folder)])
    commands: dict[str, tuple[list[str], str]] = {
        "ours, BINARY": (_own("ours", folder), "ours.dcm"),
        "ours, LABELMAP": (_own("ours_labelmap", folder), "ours_labelmap.dcm"),
        "highdicom, one segment": (_own("single", folder), "single.dcm"),
        "dcmqi": (_dcmqi(folder), "dcmqi.dcm"),
    }
    python = _peer_environment(folder / "environment")
    if python is not None:
        commands["pydicom-seg 0.4.1"] = ([str(python), "-c", _PYDICOM_SEG, str(folder)], "pydicom_seg.dcm")
    runs: dict[str, list[Measured]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, (command, written) in commands.items():
            runs[name].append(_measured(command, folder / written))
    _say(f"\n512 x 512 x {SLICES}, {STRUCTURES} structures")
    _say(f"{'':26}seconds   s/segment   peak RSS GB   frames   file MB")
    for name, ones in runs.items():
        _say(_row(name, ones))
    if python is None:
        _say("pydicom-seg: peer not available (pip could not install it here)")
    ours, single = runs["ours, BINARY"], runs["highdicom, one segment"]
    per_segment = _median(ours) / STRUCTURES
    return [
        ("seg_time_over_single_segment", per_segment / _median(single), 2.0),
        ("seg_peak_rss_gb", max(one.peak_rss for one in ours) / GB, 2.0),
    ]


def _row(name: str, ones: Sequence[Measured]) -> str:
    seconds, one = _median(ones), ones[0]
    per_segment = seconds if name == "highdicom, one segment" else seconds / STRUCTURES
    peak = statistics.median(run.peak_rss for run in ones) / GB
    return f"{name:26}{seconds:7.2f} {per_segment:11.4f} {peak:13.2f} {one.frames:8d} {one.size / 1e6:9.1f}"


def _median(ones: Sequence[Measured]) -> float:
    return statistics.median(one.seconds for one in ones)


def _own(work: str, folder: Path) -> list[str]:
    return [sys.executable, __file__, "--work", work, str(folder)]


def _dcmqi(folder: Path) -> list[str]:
    return [
        str(Path(sys.executable).with_name("itkimage2segimage")),
        "--inputImageList", str(folder / "labels.nrrd"),
        "--inputDICOMDirectory", str(folder / "ct"),
        "--inputMetadata", str(folder / "meta.json"),
        "--outputDICOM", str(folder / "dcmqi.dcm"),
    ]  # fmt: skip


def _peer_environment(folder: Path) -> Path | None:
    """Return the Python of a throw-away environment with pydicom-seg, or None when there is no way to make one."""
    python = folder / "bin" / "python"
    try:
        venv.create(folder, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", *PYDICOM_SEG]
        subprocess.run(install, check=True, capture_output=True, timeout=300)
        subprocess.run([str(python), "-c", "import pydicom_seg"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return python


def _run(command: Sequence[str]) -> tuple[str, float, int]:
    """Run a process to its end: (what it said, wall seconds, peak RSS in bytes)."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as wrong:
        process = subprocess.Popen(command, stdout=said, stderr=wrong)
        # this process imports no more than the standard library, so what a child inherits of its peak is nothing
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        said.seek(0)
        wrong.seek(0)
        if process.returncode:
            raise RuntimeError(f"{command[0]} ended with {process.returncode}: {wrong.read().decode()[-2000:]}")
        return said.read().decode(), seconds, usage.ru_maxrss * 1024


def _measured(command: Sequence[str], path: Path) -> Measured:
    said, seconds, peak = _run(command)
    lines = said.strip().splitlines()
    told = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {"seconds": seconds, "frames": 0}
    return Measured(told["seconds"], peak, told["frames"] or _frames(path), path.stat().st_size)


def _frames(path: Path) -> int:
    script = "import pydicom, sys; print(pydicom.dcmread(sys.argv[1], specific_tags=['NumberOfFrames']).NumberOfFrames)"
    return int(subprocess.run([sys.executable, "-c", script, path], check=True, capture_output=True, text=True).stdout)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# --- what the processes do ---------------------------------------------------------------------------------


def make_input(folder: Path) -> None:
    """Write the CT, the label map as .npy and .nrrd, and dcmqi's JSON."""
    import numpy as np
    import SimpleITK as sitk  # noqa: N813 its own name for itself
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian

    from tests.reports_sources import cross_sections

    labels = _ellipsoids()
    np.save(folder / "labels.npy", labels)
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((1.5, 1.5, 1.0))
    image.SetOrigin((-10.0, -20.0, 0.0))
    sitk.WriteImage(image, str(folder / "labels.nrrd"))
    (folder / "meta.json").write_text(json.dumps(_metadata()))
    (folder / "ct").mkdir()
    for number, ds in enumerate(cross_sections(SLICES, SIDE, SIDE, spacing=1.0)):
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
        ds.PixelData = bytes(2 * SIDE * SIDE)
        ds.save_as(folder / "ct" / f"{number:04d}.dcm", enforce_file_format=True)


def _ellipsoids() -> Any:
    import numpy as np

    rng = np.random.default_rng(1)
    labels = np.zeros((SLICES, SIDE, SIDE), np.uint8)
    for value in range(1, STRUCTURES + 1):
        centre = rng.uniform((45, 60, 60), (SLICES - 45, SIDE - 60, SIDE - 60))
        radius = rng.uniform((20, 20, 20), (42, 55, 55))
        low, high = np.floor(centre - radius).astype(int), np.ceil(centre + radius).astype(int) + 1
        box = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
        steps = np.ogrid[box]
        distance = sum(((step - c) / r) ** 2 for step, c, r in zip(steps, centre, radius, strict=True))
        labels[box][distance <= 1] = value
    return labels


def _metadata() -> dict[str, Any]:
    def code(row: Any) -> dict[str, str]:
        return {"CodeValue": row.value, "CodingSchemeDesignator": row.scheme, "CodeMeaning": row.meaning}

    from reports.codes import code_table

    anatomy = code_table().concepts["anatomy"]
    return {
        "ContentCreatorName": "Bench", "SeriesDescription": "Segmentation", "SeriesNumber": "300",
        "InstanceNumber": "1", "ContentLabel": "SEG", "ContentDescription": "bench", "ClinicalTrialSeriesID": "1",
        "ClinicalTrialTimePointID": "1", "ClinicalTrialCoordinatingCenterName": "1", "BodyPartExamined": "ABDOMEN",
        "segmentAttributes": [[
            {
                "labelID": number, "SegmentLabel": row.label, "SegmentDescription": row.label,
                "SegmentAlgorithmType": "AUTOMATIC", "SegmentAlgorithmName": "bench",
                "SegmentedPropertyCategoryCodeSequence": code(anatomy),
                "SegmentedPropertyTypeCodeSequence": code(row.concept),
            }
            for number, row in enumerate(_rows(), 1)
        ]],
    }  # fmt: skip


def _rows() -> Sequence[Any]:
    from reports.codes import code_table

    return [row for row in code_table().labels.values() if row.category == "anatomy"][:STRUCTURES]


def _source(folder: Path) -> "list[Dataset]":
    import pydicom

    return [pydicom.dcmread(path, stop_before_pixels=True) for path in sorted((folder / "ct").glob("*.dcm"))]


def ours(folder: Path, form: Any = "binary") -> None:
    """Write our Segmentation of the label map."""
    import numpy as np

    from reports.segmentation import build_segmentation
    from tests.reports_sources import EQUIPMENT, identity_of, spec

    labels, source = np.load(folder / "labels.npy"), _source(folder)
    specs = [spec(number, row.key) for number, row in enumerate(_rows(), 1)]
    options = {"identity": identity_of(source[0]), "equipment": EQUIPMENT}
    started = time.perf_counter()
    seg = build_segmentation(source, labels, segments=specs, form=form, **options)
    seg.save_as(folder / ("ours.dcm" if form == "binary" else "ours_labelmap.dcm"), enforce_file_format=True)
    _say(json.dumps({"seconds": time.perf_counter() - started, "frames": int(seg.NumberOfFrames)}))


def single(folder: Path) -> None:
    """Write one object per structure with highdicom alone, and tell the mean."""
    import highdicom as hd
    import numpy as np
    from pydicom.uid import generate_uid

    from reports.segmentation import describe_segment
    from tests.reports_sources import spec

    labels, source, rows = np.load(folder / "labels.npy"), _source(folder), _rows()
    spent, frames = [], []
    for number in SINGLES:
        mask = (labels == number).astype(np.uint8)
        description = describe_segment(1, spec(1, rows[number - 1].key))
        started = time.perf_counter()
        seg = hd.seg.Segmentation(
            source, mask, "BINARY", [description], generate_uid(), 1, generate_uid(), 1, "m", "m", "1", "1"
        )
        seg.save_as(folder / "single.dcm", enforce_file_format=True)
        spent.append(time.perf_counter() - started)
        frames.append(int(seg.NumberOfFrames))
    # the first loads highdicom's tables, which it does once per process
    _say(json.dumps({"seconds": statistics.mean(spent[1:]), "frames": round(statistics.mean(frames[1:]))}))


WORK: dict[str, Callable[[Path], None]] = {
    "input": make_input,
    "ours": ours,
    "ours_labelmap": lambda folder: ours(folder, "labelmap"),
    "single": single,
}


if __name__ == "__main__":
    sys.exit(main())
