"""C-STORE over real associations: Success only for what is kept, every refusal with its own status."""

import hashlib
import io
import logging
import random
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    MRImageStorage,
    generate_uid,
)

from config.logs import configure_logs
from db.models import Instance, Quarantined, Reading, Series, Study
from db.types import ReadingState
from instances.part10 import split_file
from tests.node_support import (
    associate,
    audit_tags,
    ct_slice,
    encoded,
    node_settings,
    rows,
    running_node,
    store,
    store_bytes,
)

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")


@pytest.fixture
def node(tmp_path, sqlite_sessions):
    with running_node(node_settings(tmp_path), sqlite_sessions) as node:
        yield node


def kept_files(node):
    return sorted(p for p in node.inbox.instances.root.rglob("*") if p.is_file() and p.name != ".reconciled")


def test_an_acknowledged_instance_is_on_disk_and_in_the_database(node):
    ds = ct_slice()
    data = encoded(ds)
    assert store(node.port, ds) == (0x0000, "")
    (instance,) = rows(node.sessions, Instance)
    path = node.inbox.instances.root / instance.path
    assert kept_files(node) == [path]
    assert instance.path == f"{ds.StudyInstanceUID}/{ds.SeriesInstanceUID}/{ds.SOPInstanceUID}.dcm"
    assert (instance.sha256, instance.size_bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert instance.transfer_syntax_uid == ExplicitVRLittleEndian
    assert path.read_bytes().endswith(data)
    read = dcmread(path)  # pydicom without force: a proper Part 10 file
    assert read.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    assert read.file_meta.SourceApplicationEntityTitle == "MODALITY"
    assert read.file_meta.ImplementationVersionName.startswith("FIRSTREAD")
    assert read.file_meta.FileMetaInformationGroupLength == path.stat().st_size - len(data) - 132 - 12
    assert path.stat().st_mode & 0o007 == 0
    (study,), (series,), (reading,) = (rows(node.sessions, kind) for kind in (Study, Series, Reading))
    assert (study.study_instance_uid, study.patient_name) == (ds.StudyInstanceUID, "Test^Patient")
    assert (series.modality, series.body_part) == ("CT", "CHEST")
    assert reading.state is ReadingState.RECEIVING
    assert study.calling_ae == "MODALITY"


@pytest.mark.requirement("REQ-RECV-3")
def test_a_duplicate_is_acknowledged_and_changes_nothing(node):
    ds = ct_slice()
    assert store(node.port, ds)[0] == 0x0000
    before = [(p, p.stat().st_mtime_ns, p.stat().st_ino) for p in kept_files(node)]
    assert store(node.port, ds)[0] == 0x0000
    assert [(p, p.stat().st_mtime_ns, p.stat().st_ino) for p in kept_files(node)] == before
    assert len(rows(node.sessions, Instance)) == 1
    assert rows(node.sessions, Study)[0].instance_count == 1
    assert audit_tags(node.sessions).count("instance:duplicate") == 1


def test_a_duplicate_heals_a_damaged_or_lost_file(node):
    ds = ct_slice()
    store(node.port, ds)
    (path,) = kept_files(node)
    path.unlink()
    assert store(node.port, ds)[0] == 0x0000
    assert path.read_bytes().endswith(encoded(ds))
    path.write_bytes(path.read_bytes()[:-9])
    assert store(node.port, ds)[0] == 0x0000
    assert path.read_bytes().endswith(encoded(ds))


@pytest.mark.requirement("REQ-RECV-3")
def test_other_bytes_under_a_known_uid_are_quarantined_and_the_first_stay(node):
    first = ct_slice()
    second = ct_slice(
        SOPInstanceUID=first.SOPInstanceUID,
        StudyInstanceUID=first.StudyInstanceUID,
        SeriesInstanceUID=first.SeriesInstanceUID,
        InstanceNumber=2,
    )
    elsewhere = ct_slice(SOPInstanceUID=first.SOPInstanceUID)
    assert store(node.port, first)[0] == 0x0000
    assert store(node.port, second) == (0xC003, "Other content is stored under this SOP Instance UID")
    assert store(node.port, elsewhere)[0] == 0xC003
    (kept,) = kept_files(node)
    assert kept.read_bytes().endswith(encoded(first))
    assert len(rows(node.sessions, Instance)) == len(rows(node.sessions, Study)) == 1
    quarantined = rows(node.sessions, Quarantined)
    assert {row.error for row in quarantined} == {"ConflictingInstanceError"}
    assert {row.sop_instance_uid for row in quarantined} == {str(first.SOPInstanceUID)}
    contents = {(node.inbox.quarantined.root / row.path).read_bytes() for row in quarantined}
    assert {c[split_file(c)[1] :] for c in contents} == {encoded(second), encoded(elsewhere)}


def with_uid(keyword, value):
    return ct_slice(**{keyword: value})


BAD = {
    "not DICOM": (ct_slice(), b"%PDF-1.7 this is no Data Set at all", 0xC002, "UnreadableDatasetError"),
    "whole Part 10 file": (ct_slice(), bytes(128) + b"DICM" + encoded(ct_slice()), 0xC002, "UnreadableDatasetError"),
    "truncated": ((ds := ct_slice()), encoded(ds)[:-100], 0xC002, "UnreadableDatasetError"),
    "implicit bytes in an explicit context": (
        (ds := ct_slice()),
        encoded(ds, ImplicitVRLittleEndian),
        0xC002,
        "UnreadableDatasetError",
    ),
    "no Study UID": (with_uid("StudyInstanceUID", None), None, 0xC001, "MissingUidError"),
    "empty Series UID": (with_uid("SeriesInstanceUID", ""), None, 0xC001, "MissingUidError"),
    "path in the Study UID": (with_uid("StudyInstanceUID", "../../../tmp/x"), None, 0x0117, "InvalidUidError"),
    "path in the SOP Instance UID": (with_uid("SOPInstanceUID", "1.2/../../3"), None, 0x0117, "InvalidUidError"),
    "65 characters": (with_uid("SeriesInstanceUID", "1." * 32 + "1"), None, 0x0117, "InvalidUidError"),
    "other SOP Class": (with_uid("SOPClassUID", MRImageStorage), None, 0xA900, "SopMismatchError"),
}


@pytest.mark.requirement("REQ-RECV-4")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_with_its_status_and_kept_aside(node, case):
    ds, data, status, error = BAD[case]
    answered, comment = store(node.port, ds, data=data, sop_class=CTImageStorage)
    assert answered == status
    assert 0 < len(comment) <= 64
    assert "Patient" not in comment
    assert kept_files(node) == []
    assert rows(node.sessions, Instance) == []
    (row,) = rows(node.sessions, Quarantined)
    assert (row.error, row.status, row.calling_ae) == (error, status, "MODALITY")
    kept = (node.inbox.quarantined.root / row.path).read_bytes()
    assert kept.endswith(encoded(ds) if data is None else data)
    assert audit_tags(node.sessions).count("instance:quarantined") == 1
    assert store(node.port, ct_slice())[0] == 0x0000  # and the node goes on


@pytest.mark.requirement("REQ-RECV-4")
def test_a_data_set_with_another_instance_uid_than_the_command_is_refused(node):
    assert store(node.port, ct_slice(), sop_instance=generate_uid())[0] == 0xA900


def test_a_command_with_a_sop_class_of_another_context_is_refused(node):
    assert store(node.port, ct_slice(SOPClassUID=MRImageStorage), sop_class=MRImageStorage)[0] == 0x0122


def test_the_same_garbage_again_takes_no_more_space(node):
    ds = ct_slice()
    for _ in range(3):
        assert store(node.port, ds, data=b"garbage" * 9)[0] == 0xC002
    assert len(rows(node.sessions, Quarantined)) == 3
    assert len(list(node.inbox.quarantined.root.glob("*.dcm"))) == 1


def test_no_uid_of_the_network_leaves_the_store(node, tmp_path):
    outside = {p for p in tmp_path.rglob("*") if p.is_file()}
    for uid in ("/etc/passwd", "../../../../../../tmp/escape", "..", "a" * 64):
        assert store(node.port, ct_slice(StudyInstanceUID=uid))[0] == 0x0117
        assert store(node.port, ct_slice(SOPInstanceUID=uid))[0] == 0x0117
    new = {p for p in tmp_path.rglob("*") if p.is_file()} - outside
    assert {p.parent for p in new} == {node.inbox.quarantined.root}
    assert not Path("/tmp/escape").exists()


COMPRESSED = {
    "RLE": "MR_small_RLE.dcm",
    "JPEG 2000": "MR_small_jp2klossless.dcm",
    "JPEG lossless": "SC_rgb_jpeg_gdcm.dcm",
    "JPEG-LS": "MR_small_jpeg_ls_lossless.dcm",
    "JPEG baseline": "color3d_jpeg_baseline.dcm",
    "deflated": "image_dfl.dcm",
    "implicit": "rtdose.dcm",
    "nested sequences": "liver.dcm",
}


def send_file(node, path):
    content = path.read_bytes()
    meta, offset = split_file(content)
    assoc = associate(node.port, sop_class=meta.sop_class_uid, syntaxes=(meta.transfer_syntax_uid,))
    assert assoc.is_established
    status, _ = store_bytes(
        assoc, content[offset:], sop_class=meta.sop_class_uid, sop_instance=dcmread(path).SOPInstanceUID
    )
    assoc.release()
    return status, content[offset:], meta.transfer_syntax_uid


@pytest.mark.requirement("REQ-RECV-2")
@pytest.mark.parametrize("name", COMPRESSED.values(), ids=COMPRESSED)
def test_compressed_and_odd_data_sets_are_kept_byte_for_byte(node, name):
    status, data, syntax = send_file(node, Path(get_testdata_file(name)))
    assert status == 0x0000
    (instance,) = rows(node.sessions, Instance)
    kept = (node.inbox.instances.root / instance.path).read_bytes()
    meta, offset = split_file(kept)
    assert kept[offset:] == data
    assert instance.transfer_syntax_uid == meta.transfer_syntax_uid == syntax


def test_every_transfer_syntax_of_the_test_set_but_big_endian_is_kept(node, real_data):
    sent = {}
    for path in sorted((real_data / "transfer_syntaxes").rglob("*.dcm")):
        content = path.read_bytes()
        meta, _ = split_file(content)
        if meta.transfer_syntax_uid == ExplicitVRBigEndian:
            continue
        uid = dcmread(path, stop_before_pixels=True).SOPInstanceUID
        if uid not in sent:  # one slice is there in fifteen syntaxes, under one UID
            status, data, syntax = send_file(node, path)
            assert status == 0x0000, path.name
            sent[uid] = (hashlib.sha256(data).hexdigest(), syntax)
        else:
            assert send_file(node, path)[0] == 0xC003, path.name
    kept = {row.sop_instance_uid: (row.sha256, row.transfer_syntax_uid) for row in rows(node.sessions, Instance)}
    assert kept == sent
    assert len(sent) >= 5


def test_big_endian_is_refused_at_negotiation(node):
    assoc = associate(node.port, syntaxes=(ExplicitVRBigEndian,))
    assert not assoc.is_established
    assert [cx.result for cx in assoc.rejected_contexts] == [0x04]


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ((ImplicitVRLittleEndian, ExplicitVRLittleEndian), ExplicitVRLittleEndian),
        ((ImplicitVRLittleEndian, JPEG2000Lossless), JPEG2000Lossless),
        ((ExplicitVRBigEndian, ImplicitVRLittleEndian), ImplicitVRLittleEndian),
        (("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.80"), "1.2.840.10008.1.2.4.80"),
    ],
)
def test_our_order_of_transfer_syntaxes_decides(node, offered, taken):
    assoc = associate(node.port, syntaxes=offered)
    assert [str(cx.transfer_syntax[0]) for cx in assoc.accepted_contexts] == [taken]
    assoc.release()


@pytest.mark.parametrize("sop_class", ["1.3.12.2.1107.5.9.1", "1.2.840.10008.5.1.4.1.1.5", "1.2.3.4.5.6"])
def test_private_and_retired_storage_classes_are_kept_too(node, sop_class):
    ds = ct_slice(SOPClassUID=sop_class)
    assoc = associate(node.port, sop_class=sop_class)
    assert assoc.is_established
    status, _ = store_bytes(assoc, encoded(ds), sop_class=sop_class, sop_instance=ds.SOPInstanceUID)
    assoc.release()
    assert status == 0x0000
    assert [row.sop_class_uid for row in rows(node.sessions, Instance)] == [sop_class]


def test_classes_of_other_services_are_not_negotiated(node):
    for sop_class in ("1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.38.1", "1.2.840.10008.1.3.10"):
        assoc = associate(node.port, sop_class=sop_class)
        assert not assoc.is_established
        assert [cx.result for cx in assoc.rejected_contexts] == [0x03]


def test_damaged_bytes_never_end_an_association_and_never_surprise(node):
    """One byte changed, anywhere: kept, or refused with a status that says why; not one internal error."""
    ds = ct_slice(StudyDescription="knee", PatientComments="x" * 40)
    data = encoded(ds)
    generator = random.Random(4)
    assoc = associate(node.port)
    answers = Counter()
    for _ in range(120):
        changed = bytearray(data)
        changed[generator.randrange(len(data) - len(ds.PixelData))] = generator.randrange(256)
        status, _ = store_bytes(assoc, bytes(changed), sop_class=CTImageStorage, sop_instance=ds.SOPInstanceUID)
        answers[status] += 1
    assert assoc.is_established
    assoc.release()
    assert set(answers) <= {0x0000, 0x0117, 0xA900, 0xC001, 0xC002, 0xC003}
    assert answers[0xC002] > 10
    assert len(rows(node.sessions, Instance)) == 1
    assert len(rows(node.sessions, Quarantined)) == 120 - answers[0x0000]


@pytest.mark.requirement("REQ-PRIV-1")
def test_no_identifier_reaches_the_log(node):
    stream = io.StringIO()
    configure_logs(level="DEBUG", json=True, process="node", stream=stream)
    logging.getLogger("pynetdicom").setLevel(logging.DEBUG)
    try:
        ds = ct_slice(PatientName="Verysecret^Name", PatientID="ID-424242", StudyDescription="secretdescription")
        other = ct_slice(PatientName="Verysecret^Name", SOPInstanceUID=ds.SOPInstanceUID, PatientID="ID-424242")
        assert store(node.port, ds)[0] == 0x0000
        assert store(node.port, ds)[0] == 0x0000
        assert store(node.port, other)[0] == 0xC003
        assert store(node.port, ds, data=encoded(ds)[:-3])[0] == 0xC002
        assert store(node.port, ds, sop_instance="1.2.3.4")[0] == 0xA900
    finally:
        logging.getLogger("pynetdicom").setLevel(logging.WARNING)
        configure_logs(level="WARNING", json=False, process="tests")
    log = stream.getvalue()
    assert log.count("instance.refused") == 3
    for secret in ("Verysecret", "424242", "secretdescription", ds.StudyInstanceUID, ds.SOPInstanceUID, "1.2.3.4"):
        assert str(secret) not in log
