"""Measurements on images: who keeps them, what is refused, and what the server measures itself."""

from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from config.errors import NotAuthorisedError
from db.annotation_models import Annotation, AnnotationKind
from db.lifecycle.annotations import MOST_IN_STUDY, Drawing, keep_annotation
from db.queries.annotations import annotations_of
from db.report_models import UserAccount
from db.uow import Actor, unit_of_work
from tests.dashboard_support import Browser, Site, ct_study, make_site
from tests.db_support import Journey, decide_all, open_review, sign


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return make_site(tmp_path_factory.mktemp("annotations"))


@pytest.fixture(scope="module")
def reader(site: Site) -> Browser:
    return site.client("radiologist")


@pytest.fixture
def images() -> list[Any]:
    return ct_study(3)


@pytest.fixture
def study_id(site: Site, images: list[Any]) -> UUID:
    return site.drafted(images)


def length(uid: str, **changes: Any) -> dict[str, Any]:
    """A line of 30 columns and 40 rows: 50 pixels."""
    points = [[10.0, 20.0], [40.0, 60.0]]
    return {"kind": "LENGTH", "points": points, "sop_instance_uid": uid, "frame_number": 1, "value": 1.0, **changes}


def keep(client: Browser, study_id: UUID, given: Any, key: UUID | None = None) -> Any:
    headers = {"X-CSRFToken": client.token("/account/password")}
    return client.post(f"/studies/{study_id}/annotations/{key or uuid4()}", json=given, headers=headers)


@pytest.mark.requirement("REQ-VIEW-3")
def test_a_length_is_measured_by_the_server_whatever_the_browser_says(
    site: Site, reader: Browser, study_id: UUID, images: list[Any]
) -> None:
    answer = keep(reader, study_id, length(images[0].SOPInstanceUID))
    # 50 pixels of 1.75 mm
    assert (answer.status_code, answer.json["value"], answer.json["unit"]) == (201, 87.5, "mm")
    angle = {"kind": "ANGLE", "points": [[0, 10], [0, 0], [10, 0]], "sop_instance_uid": images[1].SOPInstanceUID}
    assert keep(reader, study_id, angle | {"frame_number": 1}).json["value"] == 90.0
    with site.sessions() as db:
        kept = [(one.kind, one.value, one.unit) for one in annotations_of(db, study_id)]
    assert kept == [(AnnotationKind.LENGTH, 87.5, "mm"), (AnnotationKind.ANGLE, 90.0, "deg")]
    assert site.tags(study_id=study_id, object_type="annotation") == ["annotation:kept"] * 2


@pytest.mark.requirement("REQ-VIEW-3")
@pytest.mark.parametrize(
    ("spacing", "expected"),
    [
        ({"PixelSpacing": None}, (50.0, "px")),
        ({"PixelSpacing": None, "ImagerPixelSpacing": [0.2, 0.1]}, (8.54, "mm (detector plane)")),
        ({"PixelSpacing": [2.0, 1.0]}, (85.44, "mm")),
    ],
)
def test_a_length_is_only_as_true_as_the_spacing(
    site: Site, reader: Browser, spacing: dict[str, Any], expected: tuple[float, str]
) -> None:
    made = ct_study(1, **spacing)
    study_id = site.receive(made)
    answer = keep(reader, study_id, length(made[0].SOPInstanceUID))
    # (30 columns, 40 rows): hypot(30 * 0.1, 40 * 0.2) = 8.544; hypot(30, 80) = 85.44
    assert (answer.json["value"], answer.json["unit"]) == expected


WRONG: list[dict[str, Any]] = [
    {"kind": "CIRCLE"},
    {"points": [[1, 2]]},
    {"points": [[1, 2], [float("inf"), 3]]},
    {"points": [[1, 2], [1e9, 3]]},
    {"points": "12"},
    {"frame_number": 2},
    {"frame_number": 0},
    {"frame_number": "x"},
    {"sop_instance_uid": "1.2.3"},
    {"sop_instance_uid": None},
    {"unit": "m" * 33},
    {"text": "x" * 401},
]


def test_what_is_no_drawing_on_this_study_is_refused(
    site: Site, reader: Browser, study_id: UUID, images: list[Any]
) -> None:
    given = length(images[0].SOPInstanceUID)
    assert [keep(reader, study_id, given | wrong).status_code for wrong in WRONG] == [400] * len(WRONG)
    with site.sessions() as db:
        assert annotations_of(db, study_id) == []


def test_forged_ids_oversized_bodies_and_missing_marks_are_refused(
    site: Site, reader: Browser, study_id: UUID, images: list[Any]
) -> None:
    key = uuid4()
    given = length(images[0].SOPInstanceUID)
    other = site.receive(ct_study(1))
    assert keep(reader, other, given).status_code == 400  # an image of another study
    assert keep(reader, uuid4(), given).status_code == 400
    assert keep(reader, study_id, given, key).status_code == 201
    assert keep(reader, other, given, key).status_code == 400
    assert keep(site.client("resident"), study_id, given, key).status_code == 403  # somebody else's
    assert keep(site.client("viewer"), study_id, given).status_code == 403
    assert keep(reader, study_id, [1]).status_code == 400
    assert keep(reader, study_id, given | {"text": "x" * 9000}).status_code in {400, 413}
    assert reader.post(f"/studies/{study_id}/annotations/{key}", json=given).status_code == 400  # no CSRF mark
    headers = {"X-CSRFToken": reader.token("/account/password")}
    assert reader.delete(f"/studies/{other}/annotations/{key}", headers=headers).status_code == 400
    with site.sessions() as db:
        assert [one.id for one in annotations_of(db, study_id)] == [key]


def test_a_drawing_is_changed_by_its_author_and_its_row_outlives_its_removal(
    site: Site, reader: Browser, study_id: UUID, images: list[Any]
) -> None:
    key, uid = uuid4(), images[0].SOPInstanceUID
    keep(reader, study_id, length(uid), key)
    assert keep(reader, study_id, length(uid, points=[[0, 0], [4, 0]]), key).status_code == 200
    (shown,) = reader.get(f"/studies/{study_id}/annotations").json["annotations"]
    assert (shown["value"], shown["mine"], shown["author"]) == (7.0, True, "Maria Lund")
    headers = {"X-CSRFToken": reader.token("/account/password")}
    assert reader.delete(f"/studies/{study_id}/annotations/{key}", headers=headers).status_code == 204
    assert reader.get(f"/studies/{study_id}/annotations").json == {"annotations": []}
    assert keep(reader, study_id, length(uid), key).status_code == 403  # it does not come back
    with site.sessions() as db:
        assert db.scalars(select(Annotation.removed_at).where(Annotation.id == key)).one() is not None
    kinds = ["annotation:kept", "annotation:changed", "annotation:removed"]
    assert site.tags(study_id=study_id, object_type="annotation") == kinds


def test_measurements_of_a_signed_report_no_longer_change(
    site: Site, reader: Browser, study_id: UUID, images: list[Any]
) -> None:
    key, uid = uuid4(), images[0].SOPInstanceUID
    keep(reader, study_id, length(uid), key)
    who = Actor("radiologist", "person", site.one(UserAccount, login="radiologist").id)
    journey = Journey(site.sessions, study_id, site.reading_id(study_id))
    sign(journey, who, decide_all(journey, who, open_review(journey, who)), printed_name="Maria Lund")
    assert keep(reader, study_id, length(uid, points=[[0, 0], [4, 0]]), key).status_code == 409
    assert keep(reader, study_id, length(uid)).status_code == 409
    headers = {"X-CSRFToken": reader.token("/account/password")}
    assert reader.delete(f"/studies/{study_id}/annotations/{key}", headers=headers).status_code == 409
    assert reader.get(f"/studies/{study_id}/annotations").json["annotations"][0]["value"] == 87.5


def test_a_study_holds_a_bounded_number(site: Site, reader: Browser, study_id: UUID, images: list[Any]) -> None:
    assert keep(reader, study_id, length(images[0].SOPInstanceUID)).status_code == 201
    with site.sessions.begin() as db:
        first = db.scalars(select(Annotation).where(Annotation.study_id == study_id)).one()
        columns = {
            column.key: getattr(first, column.key) for column in Annotation.__table__.columns if column.key != "id"
        }
        db.add_all(Annotation(id=uuid4(), **columns) for _ in range(MOST_IN_STUDY - 1))
    assert keep(reader, study_id, length(images[0].SOPInstanceUID)).status_code == 409


def test_a_process_measures_nothing(site: Site, reader: Browser, study_id: UUID, images: list[Any]) -> None:
    drawing = Drawing(str(images[0].SOPInstanceUID), 1, AnnotationKind.LENGTH, [(0, 0), (1, 1)])
    with (
        pytest.raises(NotAuthorisedError, match="may work on a report"),
        unit_of_work(site.sessions, Actor("worker", "process")) as uow,
    ):
        keep_annotation(uow, study_id, uuid4(), drawing)
