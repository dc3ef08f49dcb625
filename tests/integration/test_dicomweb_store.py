"""STOW-RS against the real server: every status, hostile bodies by hand, and memory that does not grow."""

import io
import os
import random
import time
from pathlib import Path

import pytest
import requests
from pydicom import Dataset, dcmwrite
from pydicom.uid import generate_uid
from sqlalchemy import func, select

from db.models import Instance, Quarantined
from tests.dashboard_support import ct_study, make_site
from tests.dicomweb_support import (
    BOUNDARY,
    STOW_TYPE,
    Served,
    body,
    dataset_bytes,
    encoded,
    events,
    instance,
    make_token,
    memory_bytes,
    serving,
)

MOST = 400 * 1024**2


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    with serving(tmp_path_factory.mktemp("web"), FIRSTREAD_WEB__STOW_MAX_BYTES=str(MOST)) as one:
        yield one


def failures(answer) -> list[tuple[str, int]]:
    items = answer.json().get("00081198", {}).get("Value", [])
    return [(item["00081155"]["Value"][0], item["00081197"]["Value"][0]) for item in items]


def head(served: Served, *lines: str, content_type: str = STOW_TYPE.format(BOUNDARY)) -> str:
    return "\n".join(
        (
            "POST /dicomweb/studies HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {served.token}",
            f"Content-Type: {content_type}",
            *lines,
            "",
        )
    )


@pytest.mark.requirement("REQ-RECV-9")
def test_all_some_or_none_are_three_different_answers(served: Served) -> None:
    good, other = ct_study(2), ct_study(1)
    changed = ct_study(1)[0]
    changed.SOPInstanceUID = changed.file_meta.MediaStorageSOPInstanceUID = good[0].SOPInstanceUID
    all_of_them = served.store(map(encoded, good))
    assert all_of_them.status_code == 200
    assert all_of_them.headers["Content-Type"] == "application/dicom+json"
    stored = all_of_them.json()["00081199"]["Value"]
    uid = good[0].StudyInstanceUID
    assert all_of_them.json()["00081190"]["Value"] == [f"{served.url}/studies/{uid}"]
    assert [item["00081155"]["Value"][0] for item in stored] == [ds.SOPInstanceUID for ds in good]
    assert served.get(stored[0]["00081190"]["Value"][0].removeprefix(served.url)).status_code == 200
    again = served.store(map(encoded, good))  # the same bytes once more change nothing
    assert (again.status_code, failures(again)) == (200, [])
    some = served.store([encoded(changed), encoded(other[0])])
    assert (some.status_code, failures(some)) == (202, [(good[0].SOPInstanceUID, 0xC003)])
    none = served.store([encoded(changed)])
    assert (none.status_code, failures(none)) == (409, [(good[0].SOPInstanceUID, 0xC003)])
    with served.site.sessions() as db:
        doubted = db.scalars(select(Quarantined).where(Quarantined.sop_instance_uid == good[0].SOPInstanceUID)).all()
    assert {(one.error, one.calling_ae, bool(one.path)) for one in doubted} == {
        ("ConflictingInstanceError", "VIEWER", True)
    }
    assert events(served.site.sessions, "dicomweb:stored")[-1].outcome == "failure"


def test_the_study_of_the_address_is_the_only_one_taken(served: Served) -> None:
    mine, other = ct_study(1)[0], ct_study(1)[0]
    some = served.store([encoded(mine), encoded(other)], f"/studies/{mine.StudyInstanceUID}")
    assert (some.status_code, failures(some)) == (202, [(other.SOPInstanceUID, 0xA900)])
    assert served.store([encoded(other)], f"/studies/{mine.StudyInstanceUID}").status_code == 409
    assert instance(served.site.sessions, other.SOPInstanceUID) is None
    assert served.store([encoded(mine)], "/studies/no-uid").status_code == 400


def test_one_file_without_company_is_taken(served: Served) -> None:
    ds = ct_study(1)[0]
    answer = served.store([], **{"Content-Type": "application/dicom"})
    assert answer.status_code == 409  # no file at all
    sent = {**served.headers, "Content-Type": "application/dicom"}
    answer = requests.post(f"{served.url}/studies", data=encoded(ds), headers=sent, timeout=30)
    assert answer.status_code == 200
    assert instance(served.site.sessions, ds.SOPInstanceUID) is not None


def test_a_boundary_inside_the_pixels_is_pixels(served: Served) -> None:
    ds = ct_study(1)[0]
    trap = f"\r\n--{BOUNDARY}x\r\nContent-Type: application/dicom\r\n--{BOUNDARY[:-1]}\r\n\n--{BOUNDARY}--\r\n".encode()
    ds.PixelData = (trap + ds.PixelData)[: len(ds.PixelData)]
    assert served.store([encoded(ds)]).status_code == 200
    back = served.get(
        f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}",
        "application/dicom",
    )
    assert dataset_bytes(back.content) == dataset_bytes(encoded(ds))


def test_parts_of_another_kind_are_refused_and_the_others_kept(served: Served) -> None:
    ds = ct_study(1)[0]
    text = body([b"hello"], part_type="text/plain").removesuffix(f"--{BOUNDARY}--\r\n".encode())
    sent = {**served.headers, "Content-Type": STOW_TYPE.format(BOUNDARY)}
    answer = requests.post(f"{served.url}/studies", data=text + body([encoded(ds)]), headers=sent, timeout=30)
    assert answer.status_code == 202
    assert answer.json()["0008119A"]["Value"] == [{"00081197": {"vr": "US", "Value": [0xC004]}}]
    only_text = requests.post(f"{served.url}/studies", data=body([b"hello"], part_type="text/plain"), headers=sent)
    assert only_text.status_code == 415


@pytest.mark.parametrize(
    ("status", "content_type", "content"),
    [
        (400, 'multipart/related; type="application/dicom"', body([b"x"])),
        (400, STOW_TYPE.format(BOUNDARY), b""),
        (400, STOW_TYPE.format(BOUNDARY), f"--{BOUNDARY}--\r\n".encode()),  # no part
        (400, STOW_TYPE.format(BOUNDARY), b"no boundary in here"),
        (400, STOW_TYPE.format(BOUNDARY), f"--{BOUNDARY}\r\n".encode() + b"A: b\r\n" * 60_000),
        (400, STOW_TYPE.format(BOUNDARY), f"--{BOUNDARY}\r\n\r\nnever ends".encode()),
        (409, STOW_TYPE.format(BOUNDARY), body([b""])),
        (409, STOW_TYPE.format(BOUNDARY), body([b"x" * 3_000_000])),
        (409, STOW_TYPE.format(BOUNDARY), body([bytes(128) + b"DICM" + b"\x02\x00" * 700_000])),
        (409, STOW_TYPE.format(BOUNDARY), body([bytes(128) + b"DICM"])),
        (415, "text/plain", b"hello"),
        (415, "application/dicom+json", b"[]"),
        (415, 'multipart/related; type="application/dicom+json"; boundary=a-boundary', body([b"[]"])),
        (415, "multipart/form-data; boundary=a-boundary", body([b"x"])),
        (415, "", b"x"),
    ],
)
def test_what_is_no_store_request_is_answered_with_its_status(served: Served, status, content_type, content) -> None:
    sent = {**served.headers, "Content-Type": content_type}
    assert requests.post(f"{served.url}/studies", data=content, headers=sent, timeout=30).status_code == status


def test_the_identity_is_that_of_the_data_set_not_of_an_outdated_file_meta(served: Served) -> None:
    ds = ct_study(1)[0]
    old = ds.SOPInstanceUID
    ds.SOPInstanceUID = generate_uid()
    buffer = io.BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=False, implicit_vr=False, little_endian=True)
    file = bytes(128) + b"DICM" + buffer.getvalue()
    assert old.encode() in file[:400]
    for size in (len(file), 100):  # also when it arrives in small pieces
        content = body([file])
        pieces = (content[start : start + size] for start in range(0, len(content), size))
        sent = {**served.headers, "Content-Type": STOW_TYPE.format(BOUNDARY)}
        assert requests.post(f"{served.url}/studies", data=pieces, headers=sent, timeout=30).status_code == 200
    assert instance(served.site.sessions, ds.SOPInstanceUID) is not None
    assert instance(served.site.sessions, old) is None


def test_many_damaged_requests_are_answered_and_leave_nothing_behind(served: Served) -> None:
    chance = random.Random(18)
    whole = body(map(encoded, ct_study(2)))
    sent = {**served.headers, "Content-Type": STOW_TYPE.format(BOUNDARY)}
    statuses = set()
    with requests.Session() as session:
        for _ in range(150):
            damaged = bytearray(whole)
            for _ in range(chance.randrange(1, 8)):
                place = chance.randrange(len(damaged)) if chance.random() < 0.4 else chance.randrange(900)
                kind = chance.randrange(3)
                if kind == 0:
                    damaged[place] = chance.randrange(256)
                elif kind == 1:
                    del damaged[place : place + chance.randrange(1, 400)]
                else:
                    damaged[place:place] = chance.randbytes(chance.randrange(1, 400))
            answer = session.post(f"{served.url}/studies", data=bytes(damaged), headers=sent, timeout=30)
            statuses.add(answer.status_code)
    assert statuses <= {200, 202, 400, 409}
    assert len(statuses) >= 3
    assert list((served.site.settings.instances_dir / ".incoming").iterdir()) == []
    assert served.store([encoded(ct_study(1)[0])]).status_code == 200


def test_a_content_coding_and_an_answer_in_xml_are_refused_before_anything_is_kept(served: Served) -> None:
    ds = ct_study(1)[0]
    assert served.store([encoded(ds)], **{"Content-Encoding": "gzip"}).status_code == 415
    assert served.store([encoded(ds)], Accept="application/dicom+xml").status_code == 406
    assert instance(served.site.sessions, ds.SOPInstanceUID) is None


@pytest.mark.requirement("REQ-RECV-9")
def test_a_body_that_breaks_off_keeps_what_came_whole(served: Served) -> None:
    first, second = ct_study(2)
    whole = body([encoded(first), encoded(second)])
    cut = whole[: len(whole) - 20_000]
    answer = served.raw(head(served, f"Content-Length: {len(whole)}"), cut, end=True)
    assert answer.startswith(b"HTTP/1.1 202 ")
    assert instance(served.site.sessions, first.SOPInstanceUID) is not None
    assert instance(served.site.sessions, second.SOPInstanceUID) is None
    lone = body([encoded(ct_study(1)[0])])
    assert served.raw(head(served, f"Content-Length: {len(lone)}"), lone[:9000], end=True).startswith(b"HTTP/1.1 400 ")
    incoming = served.site.settings.instances_dir / ".incoming"
    assert list(incoming.iterdir()) == []


@pytest.mark.parametrize("chunk", [b"zz\r\n", b"-5\r\n", b"5\r\nabc", b"5\r\nabcdefgh\r\n"])
def test_chunks_that_are_none_are_a_bad_request(served: Served, chunk: bytes) -> None:
    answer = served.raw(head(served, "Transfer-Encoding: chunked"), chunk, end=True)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))


def test_a_chunked_body_is_stored_and_one_that_is_too_large_is_not(served: Served) -> None:
    ds = ct_study(1)[0]
    content = body([encoded(ds)])
    sent = {**served.headers, "Content-Type": STOW_TYPE.format(BOUNDARY)}

    def pieces(whole: bytes):
        for start in range(0, len(whole), 1000):
            yield whole[start : start + 1000]

    assert requests.post(f"{served.url}/studies", data=pieces(content), headers=sent, timeout=30).status_code == 200
    answer = served.raw(head(served, f"Content-Length: {MOST + 1}"), b"x")
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_ten_thousand_parts_are_ten_thousand_answers(served: Served) -> None:
    began = time.monotonic()
    answer = served.store([b"x"] * 10_000)
    assert answer.status_code == 409
    assert len(answer.json()["0008119A"]["Value"]) == 10_000
    assert time.monotonic() - began < 20


def test_many_instances_of_one_request_are_all_kept_once(served: Served) -> None:
    made = ct_study(60)
    assert served.store(map(encoded, made)).status_code == 200
    with served.site.sessions() as db:
        uids = [ds.SOPInstanceUID for ds in made]
        count = db.scalar(select(func.count()).select_from(Instance).where(Instance.sop_instance_uid.in_(uids)))
    assert count == 60


def test_memory_stays_flat_however_large_a_part_is(served: Served) -> None:
    worker = _worker(served)
    ds = _large(150)
    content = body([encoded(ds)])
    size = len(content)
    assert size > 140 * 1024**2
    Path(f"/proc/{worker}/clear_refs").write_text("5", encoding="ascii")  # forget the peak so far
    before = memory_bytes(worker, "VmRSS")
    sent = {**served.headers, "Content-Type": STOW_TYPE.format(BOUNDARY)}
    assert requests.post(f"{served.url}/studies", data=content, headers=sent, timeout=60).status_code == 200
    address = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    accept = "application/dicom; transfer-syntax=*"
    with requests.get(served.url + address, headers={**served.headers, "Accept": accept}, stream=True, timeout=60) as r:
        assert sum(len(piece) for piece in r.iter_content(1 << 20)) > 140 * 1024**2
    assert len(served.get(f"{address}/frames/100").content) > 2 * 512 * 512
    assert memory_bytes(worker) - before < 40 * 1024**2


def _large(frames: int) -> Dataset:
    ds = ct_study(1)[0]
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    ds.Rows = ds.Columns = 512
    ds.NumberOfFrames = 2 * frames
    ds.PixelData = bytes(2 * 512 * 512) * (2 * frames)
    return ds


def _worker(served: Served) -> int:
    """The process behind the port: gunicorn's child."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            name = (folder / "environ").read_bytes()
            parent = int((folder / "stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if f"FIRSTREAD_WEB__PORT={served.port}".encode() in name and parent != os.getpid():
            return int(folder.name)
    raise AssertionError("no such process")


def test_a_full_disk_is_a_503_that_says_when_to_come_back(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url, dicom={"min_free_bytes": 10**18})
    token = make_token(site.sessions)
    ds = ct_study(1)[0]
    answer = site.app.test_client().post(
        "/dicomweb/studies",
        data=body([encoded(ds)]),
        headers={"Authorization": f"Bearer {token}", "Content-Type": STOW_TYPE.format(BOUNDARY)},
    )
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.get_json(force=True)["00081198"]["Value"][0]["00081197"]["Value"] == [0xA700]
    assert instance(site.sessions, ds.SOPInstanceUID) is None


def test_while_others_use_every_place_a_sender_is_told_to_come_back(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url, dicom={"min_free_bytes": 0}, web={"threads": 3})
    sent = {"Authorization": f"Bearer {make_token(site.sessions)}", "Content-Type": STOW_TYPE.format(BOUNDARY)}
    places = site.app.extensions["firstread.stow_places"]
    content = body([encoded(ct_study(1)[0])])
    with places:
        answer = site.app.test_client().post("/dicomweb/studies", data=content, headers=sent)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "30")
    assert site.app.test_client().post("/dicomweb/studies", data=content, headers=sent).status_code == 200


def test_behind_a_proxy_addresses_are_those_of_the_proxy(tmp_path: Path, sqlite_url: str) -> None:
    public = {"public_url": "https://pacs.example/firstread/"}
    site = make_site(tmp_path, sqlite_url, dicom={"min_free_bytes": 0}, web=public)
    sent = {"Authorization": f"Bearer {make_token(site.sessions)}", "Content-Type": STOW_TYPE.format(BOUNDARY)}
    ds = ct_study(1)[0]
    answer = site.app.test_client().post("/dicomweb/studies", data=body([encoded(ds)]), headers=sent)
    address = f"https://pacs.example/firstread/dicomweb/studies/{ds.StudyInstanceUID}"
    assert answer.get_json(force=True)["00081190"]["Value"] == [address]
