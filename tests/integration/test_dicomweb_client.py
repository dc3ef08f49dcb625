"""The ``dicomweb-client`` package, an independent implementation, against the server that people run."""

import io
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from pydicom import Dataset, dcmread

from tests.dashboard_support import ct_study
from tests.dicomweb_support import Served, dataset_bytes, encoded, events, instance, parts_of, serving

J2K = "1.2.840.10008.1.2.4.90"
EXPLICIT = "1.2.840.10008.1.2.1"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory):
    with serving(tmp_path_factory.mktemp("web")) as one:
        yield one


@pytest.fixture(scope="module")
def study(served: Served) -> list[Dataset]:
    made = ct_study(5)
    answer = served.client().store_instances(made)
    assert len(answer.ReferencedSOPSequence) == 5
    assert "FailedSOPSequence" not in answer
    return made


def test_what_was_stored_is_found_at_each_level(served: Served, study: list[Dataset]) -> None:
    client, uid = served.client(), study[0].StudyInstanceUID
    found = client.search_for_studies(search_filters={"PatientName": "halvorsen*", "StudyDate": "20261101-20261130"})
    one = next(d for d in (Dataset.from_json(f) for f in found) if uid == d.StudyInstanceUID)
    assert (one.PatientID, str(one.PatientName), one.AccessionNumber) == ("P-1001", "Halvorsen^Ingrid", "ACC-1001")
    assert (one.NumberOfStudyRelatedSeries, one.NumberOfStudyRelatedInstances) == (1, 5)
    assert (one.ModalitiesInStudy, one.InstanceAvailability, one.StudyID) == ("CT", "ONLINE", "1")
    assert one.RetrieveURL == f"{served.url}/studies/{uid}"
    series = Dataset.from_json(client.search_for_series(uid, fields=["00180015"])[0])
    assert (series.SeriesNumber, series.NumberOfSeriesRelatedInstances, series.BodyPartExamined) == (2, 5, "CHEST")
    instances = [Dataset.from_json(one) for one in client.search_for_instances(uid, series.SeriesInstanceUID)]
    assert [one.SOPInstanceUID for one in instances] == [one.SOPInstanceUID for one in study]
    assert {(one.Rows, one.Columns, one.BitsAllocated) for one in instances} == {(128, 128, 16)}
    page = client.search_for_instances(uid, limit=2, offset=3)
    assert [p["00200013"]["Value"] for p in page] == [[4], [5]]


@pytest.mark.requirement("REQ-RECV-2")
def test_what_comes_back_is_byte_for_byte_what_was_sent(served: Served, study: list[Dataset]) -> None:
    uid = study[0].StudyInstanceUID
    sent = {str(one.SOPInstanceUID): dataset_bytes(encoded(one)) for one in study}
    accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
    received = parts_of(served.get(f"/studies/{uid}", accept))
    assert {kind for kind, _ in received} == {f"application/dicom; transfer-syntax={EXPLICIT}"}
    assert {str(dcmread(io.BytesIO(one)).SOPInstanceUID): dataset_bytes(one) for _, one in received} == sent
    parsed = served.client().retrieve_study(uid)
    assert [one.PixelData for one in parsed] == [one.PixelData for one in study]


def test_headers_come_without_pixels_and_say_where_these_are(served: Served, study: list[Dataset]) -> None:
    client, first = served.client(), study[0]
    found = client.retrieve_study_metadata(first.StudyInstanceUID)
    assert len(found) == 5
    one = next(f for f in found if f["00080018"]["Value"] == [first.SOPInstanceUID])
    header = Dataset.from_json(one, bulk_data_uri_handler=lambda tag, vr, uri: None)
    assert (header.ImagePositionPatient, header.WindowCenter) == (first.ImagePositionPatient, first.WindowCenter)
    (pixels,) = client.retrieve_bulkdata(one["7FE00010"]["BulkDataURI"])
    assert pixels == first.PixelData


def test_frames_are_the_pixels(served: Served, study: list[Dataset]) -> None:
    first = study[0]
    (frame,) = served.client().retrieve_instance_frames(
        first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID, frame_numbers=[1]
    )
    assert frame == first.PixelData


@pytest.mark.parametrize(("media_type", "kind"), [("image/png", "PNG"), ("image/jpeg", "JPEG")])
def test_rendered_frames_are_pictures_in_the_window_asked_for(served, study, media_type, kind) -> None:
    first = study[0]
    uids = (first.StudyInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID)
    shown = served.client().retrieve_instance_rendered(
        *uids, media_types=(media_type,), params={"window": "40,400,linear", "viewport": "64,64"}
    )
    image = Image.open(io.BytesIO(shown))
    assert (image.format, image.size) == (kind, (64, 64))
    grey = np.asarray(image.convert("L"), dtype=int)
    assert grey[1, 1] < 8  # air
    assert abs(grey[32, 32] - 128) < 12  # a body of 40 HU in the middle of the window
    lung = served.client().retrieve_instance_rendered(
        *uids, media_types=("image/png",), params={"window": "-850,10,linear-exact"}
    )
    assert np.asarray(Image.open(io.BytesIO(lung)))[64, 64] == 255


def test_a_thumbnail_stands_for_a_study_a_series_an_instance_and_a_frame(served: Served, study: list[Dataset]) -> None:
    first = study[0]
    path = ""
    for step in (
        f"/studies/{first.StudyInstanceUID}",
        f"/series/{first.SeriesInstanceUID}",
        f"/instances/{first.SOPInstanceUID}",
        "/frames/1",
    ):
        path += step
        answer = served.get(f"{path}/thumbnail")
        assert answer.headers["Content-Type"] == "image/jpeg"
        assert max(Image.open(io.BytesIO(answer.content)).size) == 128


def test_head_tells_what_get_would_send_and_sends_nothing(served: Served, study: list[Dataset]) -> None:
    first = study[0]
    address = f"{served.url}/studies/{first.StudyInstanceUID}/series/{first.SeriesInstanceUID}/instances"
    for path, kind in (("/rendered", "image/jpeg"), ("/metadata", "application/dicom+json"), ("", "multipart/related")):
        answer = requests.head(f"{address}/{first.SOPInstanceUID}{path}", headers=served.headers, timeout=30)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["Content-Type"].startswith(kind)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/frames/0", 400), ("/frames/x", 400), ("/frames/1,,1", 400), ("/frames/2", 404), ("/frames/-1", 400),
        ("/frames/99999999999999999999", 400), ("/rendered?viewport=0,0", 400), ("/rendered?viewport=1", 400),
        ("/rendered?window=40,400", 400), ("/rendered?window=40,0,linear", 400), ("/rendered?window=a,b,linear", 400),
        ("/rendered?quality=0", 400), ("/rendered?quality=x", 400), ("/rendered?viewport=99999,99999", 400),
        ("/rendered?accept=image/gif", 406), ("/thumbnail?accept=text/html", 406), ("/bulkdata/00100010", 404),
        ("/bulkdata/..%2F..%2Fetc%2Fpasswd", 404), ("/bulkdata/7FE00010/0/7FE00010", 404), ("/nothing", 404),
        ("?accept=application/zip", 406), ("/metadata?accept=application/dicom%2Bxml", 406),
    ],
)  # fmt: skip
def test_what_cannot_be_retrieved_is_answered_with_its_status(served, study, path, status) -> None:
    first = study[0]
    address = f"/studies/{first.StudyInstanceUID}/series/{first.SeriesInstanceUID}/instances/{first.SOPInstanceUID}"
    assert served.get(f"{address}{path}").status_code == status


def test_objects_are_found_only_under_their_own_study_and_series(served: Served, study: list[Dataset]) -> None:
    first = study[0]
    inside = f"series/{first.SeriesInstanceUID}/instances/{first.SOPInstanceUID}"
    assert served.get(f"/studies/1.2.3/{inside}").status_code == 404
    other = f"/studies/{first.StudyInstanceUID}/series/1.2.3/instances/{first.SOPInstanceUID}"
    assert served.get(other).status_code == 404
    assert served.get(f"/studies/{first.StudyInstanceUID}/series/..%2F..").status_code in {400, 404}


def test_ohif_s_questions_are_answered(served: Served, study: list[Dataset]) -> None:
    uid, series = study[0].StudyInstanceUID, study[0].SeriesInstanceUID
    listed = served.get("/studies?limit=101&offset=0&fuzzymatching=false&includefield=00081030%2C00080060")
    one = next(r for r in listed.json() if r["0020000D"]["Value"] == [uid])
    assert one["00081030"]["Value"] == ["CT chest"]
    found = served.get(f"/studies/{uid}/series?includefield=00080021%2C00081030%2C0008103E").json()
    assert found[0]["0008103E"]["Value"] == ["Chest 5.0 lung"]
    header = served.get(f"/studies/{uid}/series/{series}/metadata", "application/dicom+json").json()
    assert len(header) == 5
    answer = served.get(
        f"/studies/{uid}/series/{series}/instances/{study[0].SOPInstanceUID}/frames/1",
        "multipart/related; type=application/octet-stream; transfer-syntax=*",
    )
    ((kind, content),) = parts_of(answer)
    assert (kind, content) == (f"application/octet-stream; transfer-syntax={EXPLICIT}", study[0].PixelData)
    assert "Access-Control-Allow-Origin" not in answer.headers


def test_real_images_in_every_transfer_syntax_come_back_as_they_went(served: Served, real_data: Path) -> None:
    files = sorted((real_data / "transfer_syntaxes").rglob("*.dcm"))
    contents = [path.read_bytes() for path in files]
    accept = "application/dicom; transfer-syntax=*"
    compared = 0
    for content in contents:
        answer = served.store([content])
        ds = dcmread(io.BytesIO(content))
        held = instance(served.site.sessions, ds.SOPInstanceUID)
        if ds.file_meta.TransferSyntaxUID.name == "Explicit VR Big Endian":
            assert answer.status_code == 409
            continue
        if answer.status_code == 409:  # one image in several syntaxes: the same UID with other bytes stays out
            assert answer.json()["00081198"]["Value"][0]["00081197"]["Value"] == [0xC003]
            continue
        assert answer.status_code == 200, answer.text
        assert held is not None
        back = served.get(
            f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}", accept
        )
        assert back.status_code == 200
        assert dataset_bytes(back.content) == content[144 + int.from_bytes(content[140:144], "little") :]
        compared += 1
    assert compared >= 4


def test_a_compressed_radiograph_is_sent_as_it_is_or_decoded(served: Served, real_data: Path) -> None:
    (path,) = (real_data / "cxr_07").glob("*.dcm")
    assert served.store([path.read_bytes()]).status_code == 200
    ds = dcmread(path)
    address = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    explicit = served.get(address, "application/dicom")
    decoded = dcmread(io.BytesIO(explicit.content))
    assert decoded.file_meta.TransferSyntaxUID == EXPLICIT
    assert np.array_equal(decoded.pixel_array, ds.pixel_array)
    assert decoded.SOPInstanceUID == ds.SOPInstanceUID
    frame = served.get(f"{address}/frames/1", 'multipart/related; type="application/octet-stream"')
    assert parts_of(frame)[0][1] == ds.pixel_array.tobytes()
    ((kind, stored),) = parts_of(served.get(f"{address}/frames/1", 'multipart/related; type="image/jp2"'))
    assert kind == f"image/jp2; transfer-syntax={J2K}"
    assert stored in path.read_bytes()
    assert served.get(f"{address}/frames/1", 'multipart/related; type="image/jls"').status_code == 406
    assert served.get(f"{address}/frames/2").status_code == 404
    assert served.get(f"{address}/frames/0").status_code == 400


def test_frames_of_an_enhanced_image_come_in_the_order_asked_for(served: Served, real_data: Path) -> None:
    images = sorted((real_data / "mr_multivendor").rglob("*.dcm"))
    path = next(p for p in images if dcmread(p, stop_before_pixels=True).get("NumberOfFrames", 1) > 2)
    assert served.store([path.read_bytes()]).status_code == 200
    ds = dcmread(path)
    address = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    accept = 'multipart/related; type="application/octet-stream"; transfer-syntax=1.2.840.10008.1.2.1'
    frames = parts_of(served.get(f"{address}/frames/3,1", accept))
    assert [content for _, content in frames] == [ds.pixel_array[2].tobytes(), ds.pixel_array[0].tobytes()]
    assert served.get(f"{address}/frames/{ds.NumberOfFrames + 1}", accept).status_code == 404
    found = served.get(f"/instances?SOPInstanceUID={ds.SOPInstanceUID}").json()[0]
    assert found["00280008"]["Value"] == [ds.NumberOfFrames]


def test_single_bit_frames_of_a_segmentation_are_cut_out(served: Served, real_data: Path) -> None:
    path = next((real_data / "reference_objects" / "seg_of_ct_3slice").glob("*.dcm"))
    ds = dcmread(path)
    assert ds.BitsAllocated == 1
    assert served.store([path.read_bytes()]).status_code == 200
    address = f"/studies/{ds.StudyInstanceUID}/series/{ds.SeriesInstanceUID}/instances/{ds.SOPInstanceUID}"
    ((_, content),) = parts_of(served.get(f"{address}/frames/2", 'multipart/related; type="application/octet-stream"'))
    bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")[: ds.Rows * ds.Columns]
    assert np.array_equal(bits.reshape(ds.Rows, ds.Columns), ds.pixel_array[1])


@pytest.mark.requirement("REQ-AUDIT-4")
def test_each_use_is_on_record_and_a_thousand_frames_are_one_look(served: Served, study: list[Dataset]) -> None:
    first = study[0]
    sessions = served.site.sessions
    address = f"/studies/{first.StudyInstanceUID}/series/{first.SeriesInstanceUID}/instances"
    before = len(events(sessions, "dicomweb:retrieved"))
    for one in study:
        assert served.get(f"{address}/{one.SOPInstanceUID}/frames/1").status_code == 200
    assert len(events(sessions, "dicomweb:retrieved")) <= before + 1
    assert served.get(f"{address}/{first.SOPInstanceUID}").status_code == 200
    last = events(sessions, "dicomweb:retrieved")[-1]
    assert (last.actor, last.actor_kind, last.detail["what"]) == ("token:VIEWER", "peer", "instance")
    row = instance(sessions, first.SOPInstanceUID)
    assert row is not None
    assert last.study_id == row.study_id
    stored = next(e for e in events(sessions, "dicomweb:stored") if e.study_id == row.study_id)
    assert (stored.detail["stored"], stored.detail["refused"]) == (5, 0)
    assert row.calling_ae == "VIEWER"
    assert events(sessions, "dicomweb:queried")[-1].detail["level"] in {"studies", "series", "instances"}
