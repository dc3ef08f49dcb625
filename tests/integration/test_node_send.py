"""Any folder can be played into the node; whatever cannot is listed with its reason."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from db.models import Instance, Quarantined, Series
from dicom_node.send import send_folder
from instances.part10 import FileMeta, file_head, split_file
from tests.node_support import ct_slice, encoded, node_settings, rows, running_node, write_file


@pytest.fixture
def node(tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        yield node


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "outbox"
    folder.mkdir()
    return folder


def send(folder, node, **changes):
    return send_folder(folder, "127.0.0.1", changes.get("port", node and node.port), changes.get("ae", "FIRSTREAD"))


def test_every_kind_of_file_ends_with_an_outcome_and_a_reason(node, folder):
    write_file(folder / "a" / "good.dcm", ct_slice())
    write_file(folder / "implicit", ct_slice(), ImplicitVRLittleEndian)
    (folder / "no-meta.dcm").write_bytes(encoded(ct_slice(), ImplicitVRLittleEndian))
    whole = write_file(folder / "no-preamble.dcm", ct_slice())
    whole.write_bytes(whole.read_bytes()[132:])
    stale = ct_slice()
    (folder / "stale-meta.dcm").write_bytes(file_head(FileMeta("", "", ExplicitVRLittleEndian)) + encoded(stale))
    (folder / "notes.txt").write_text("these are no pixels")
    (folder / "empty").write_bytes(b"")
    (folder / "no-class").write_bytes(encoded(ct_slice(SOPClassUID=None)))
    cut = write_file(folder / "cut.dcm", ct_slice())
    cut.write_bytes(cut.read_bytes()[:-10])
    write_file(folder / "no-study.dcm", ct_slice(StudyInstanceUID=None))
    shutil.copy(get_testdata_file("MR_small_bigendian.dcm"), folder / "big-endian.dcm")
    shutil.copy(get_testdata_file("DICOMDIR"), folder / "DICOMDIR")
    (folder / "dangling").symlink_to(folder / "nowhere")
    told = []
    summary = send_folder(folder, "127.0.0.1", node.port, "FIRSTREAD", tell=told.append)
    assert told == summary.files
    assert {file.path.name: (file.outcome, file.reason) for file in summary.files} == {
        "good.dcm": ("stored", ""),
        "implicit": ("stored", ""),
        "no-meta.dcm": ("stored", ""),
        "no-preamble.dcm": ("stored", ""),
        "stale-meta.dcm": ("stored", ""),
        "notes.txt": ("skipped", "not DICOM"),
        "empty": ("skipped", "empty file"),
        "no-class": ("skipped", "SOP Class UID is missing"),
        "cut.dcm": ("refused", "0xC002 Data Set cannot be parsed or ends too early"),
        "no-study.dcm": ("refused", "0xC001 Study, Series, SOP Instance or SOP Class UID is missing"),
        "big-endian.dcm": ("refused", "transfer syntax not accepted by the peer: Explicit VR Big Endian"),
        "DICOMDIR": ("skipped", "DICOMDIR: a directory, not an Instance"),
    }
    assert summary.counts == {"stored": 5, "skipped": 4, "refused": 3}
    assert summary.reasons()["skipped: not DICOM"] == 1
    assert len(rows(node.sessions, Instance)) == 5
    assert len(rows(node.sessions, Quarantined)) == 2


def test_more_than_128_contexts_take_several_associations(node, folder):
    for number in range(130):
        write_file(folder / f"{number:03}.dcm", ct_slice(SOPClassUID=f"1.2.826.0.1.77.{number}", PixelData=b"\0\0"))
    assert send(folder, node).counts == {"stored": 130}
    assert len({row.sop_class_uid for row in rows(node.sessions, Instance)}) == 130


def test_an_absent_or_unwilling_peer_is_a_reason_not_a_crash(node, folder):
    write_file(folder / "a.dcm", ct_slice())
    for changes, reason in (
        ({"port": 9}, "no connection, or no answer to the association request"),
        ({"ae": "NOBODY"}, "the association was rejected: called AE title not recognised"),
    ):
        (file,) = send(folder, node, **changes).files
        assert (file.outcome, file.reason) == ("not sent", reason)


def test_a_uid_the_command_cannot_hold_stops_no_other_file(node, folder):
    for name, uid in (("a", "1." * 40 + "1"), ("b", "1.2/3"), ("c", generate_uid())):
        ds = ct_slice()
        data = encoded(ds)
        at = data.index(b"\x08\x00\x18\x00UI") + 6
        end = at + 2 + int.from_bytes(data[at : at + 2], "little")
        value = uid.encode() + b"\0" * (len(uid) % 2)
        data = data[:at] + len(value).to_bytes(2, "little") + value + data[end:]
        (folder / name).write_bytes(file_head(FileMeta(ds.SOPClassUID, "", ExplicitVRLittleEndian)) + data)
    outcomes = {file.path.name: file.outcome for file in send(folder, node).files}
    assert outcomes["c"] == "stored"
    assert outcomes["a"] != "stored"
    assert outcomes["b"] == "refused"


def test_all_files_pydicom_ships_are_sent_as_they_are_or_listed(node):
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    summary = send(folder, node)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {file.path for file in summary.files} == set(files)
    assert all(file.reason for file in summary.files if file.outcome != "stored")
    assert summary.counts["stored"] > 100
    assert "not sent" not in summary.counts
    by_uid = {row.sop_instance_uid: row for row in rows(node.sessions, Instance)}
    for file in summary.files:
        if file.outcome == "stored":
            content = file.path.read_bytes()
            row = by_uid[str(dcmread(file.path, stop_before_pixels=True, force=True).SOPInstanceUID)]
            offset = split_file(content)[1] if content[128:132] == b"DICM" else 0
            assert row.sha256 == hashlib.sha256(content[offset:]).hexdigest(), file.path.name


def test_real_studies_arrive_whole(node, real_data):
    for name, instances, series in (("cxr_01", 1, 1), ("ct_abdomen", 20, 1)):
        before = len(rows(node.sessions, Instance)), len(rows(node.sessions, Series))
        summary = send(real_data / name, node)
        assert summary.counts["stored"] == instances
        assert set(summary.reasons()) <= {"skipped: not DICOM"}
        after = len(rows(node.sessions, Instance)), len(rows(node.sessions, Series))
        assert after == (before[0] + instances, before[1] + series)


def run(program, *arguments):
    if shutil.which(program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"{program} is not installed (apt-get install dcmtk)")
        pytest.skip(f"{program} is not installed (apt-get install dcmtk)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.dcmtk
def test_dcmtk_as_an_independent_sender(node, folder):
    where = ("-aet", "DCMTK", "-aec", "FIRSTREAD", "127.0.0.1", str(node.port))
    assert run("echoscu", *where).returncode == 0
    assert run("echoscu", "-aec", "NOBODY", "127.0.0.1", str(node.port)).returncode != 0
    sent = {}
    for number in range(5):
        ds = ct_slice()
        write_file(folder / f"{number}.dcm", ds, [ImplicitVRLittleEndian, ExplicitVRLittleEndian][number % 2])
        sent[str(ds.SOPInstanceUID)] = ds
    assert run("storescu", "+sd", *where, str(folder)).returncode == 0
    kept = {row.sop_instance_uid: row for row in rows(node.sessions, Instance)}
    assert set(kept) == set(sent)
    for uid, ds in sent.items():
        read = dcmread(node.inbox.instances.root / kept[uid].path)
        assert read.PixelData == ds.PixelData
        assert read.PatientName == ds.PatientName
    dump = run("dcmdump", "+P", "MediaStorageSOPInstanceUID", str(node.inbox.instances.root / kept[uid].path))
    assert dump.returncode == 0
    assert uid in dump.stdout
    bad = write_file(folder / "bad.dcm", ct_slice(StudyInstanceUID=None))
    refused = run("storescu", "-v", *where, str(bad))
    assert "CannotUnderstand" in refused.stdout + refused.stderr


@pytest.mark.dcmtk
def test_dcmtk_sends_jpeg_lossless_as_it_is(node, real_data):
    (path,) = (real_data / "transfer_syntaxes" / "ct").glob("*Process14SV1*")
    where = ("-aet", "DCMTK", "-aec", "FIRSTREAD", "127.0.0.1", str(node.port))
    assert run("storescu", "-xs", *where, str(path)).returncode == 0
    (row,) = rows(node.sessions, Instance)
    assert row.transfer_syntax_uid == split_file(path.read_bytes())[0].transfer_syntax_uid
    assert row.transfer_syntax_uid != ExplicitVRBigEndian
    assert dcmread(node.inbox.instances.root / row.path).PixelData == dcmread(path).PixelData
