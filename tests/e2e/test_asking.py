"""A question and another draft over the real stack: page, outbox, broker, worker with the demonstration models."""

import json

import pydicom
import pytest
from sqlalchemy import select

from db.asking_models import Answer, ErrandState, Question, Redraft
from db.models import Study
from db.report_models import Draft, Report
from dicom_node.send import send_folder
from phantoms.chest_xray import make_chest_xray
from phantoms.dicom import write_radiograph
from phantoms.patients import make_patient
from tests.e2e.dashboard_client import Person
from tests.e2e.test_journey import eventually, firstread

pytestmark = [pytest.mark.models, pytest.mark.timeout(900)]


def test_a_question_is_answered_and_another_draft_adopted_and_reproduced(installation, tmp_path):
    xray = make_chest_xray(77, findings=frozenset({"Effusion"}), size=256)
    files = write_radiograph(
        xray.pixels, make_patient(77), tmp_path, view=xray.view, pixel_spacing_mm=xray.pixel_spacing_mm
    )
    film = pydicom.dcmread(files[0], stop_before_pixels=True)
    dicom = installation.settings.dicom
    assert send_folder(tmp_path, "127.0.0.1", dicom.port, dicom.ae_title, "CR_1").counts == {"stored": 1}

    def report():
        installation.family.watch()
        with installation.sessions() as session:
            query = select(Report).join(Study, Study.id == Report.study_id)
            return session.scalar(query.where(Study.study_instance_uid == str(film.StudyInstanceUID)))

    eventually(lambda: (found := report()) and found.draft_id, 600, "the study is drafted")
    reader = Person(installation.dashboard)
    reader.log_in("radiologist", installation.passwords["radiologist"])
    path = f"/studies/{report().study_id}"
    page = reader.submit(reader.get(path).form(f"{path}/review"))
    before = report()
    for question in ("Does the film show effusion?", "Does the film show fracture?"):
        with_experts = {"with_experts": "1"} if "effusion" in question else {}
        page = reader.submit(
            page.form(f"{path}/questions"),
            question=question,
            about="shown",
            sop_instance_uid=str(film.SOPInstanceUID),
            frame_number="1",
            **with_experts,
        )

    def settled(kind, wanted):
        installation.family.watch()
        with installation.sessions() as session:
            rows = session.scalars(select(kind).where(kind.report_id == before.id).order_by(kind.asked_at)).all()
        assert not [one.reason for one in rows if one.state in {ErrandState.REFUSED, ErrandState.FAILED}]
        return rows if all(one.state is wanted for one in rows) else None

    asked = eventually(lambda: settled(Question, ErrandState.ANSWERED), 300, "both questions are answered")
    with installation.sessions() as session:
        answers = [session.scalars(select(Answer).where(Answer.question_id == one.id)).one() for one in asked]
    assert [one.text for one in answers] == ["yes", "no"]  # the demonstration model answers in one word
    assert [[run["expert"] for run in one.experts] for one in answers] == [["CXR"], []]
    assert answers[0].pictures[0]["sop_instance_uid"] == str(film.SOPInstanceUID)
    assert report().sections == before.sections

    page = reader.submit(page.form(f"{path}/redrafts"), instruction="Follow-up after drainage.")
    (redraft,) = eventually(lambda: settled(Redraft, ErrandState.OFFERED), 300, "another draft is offered")
    page = reader.get(path)
    assert "New AI draft, not yet adopted" in page.text
    reader.submit(page.form(f"{path}/redrafts/{redraft.id}/adopt"))
    with installation.sessions() as session:
        draft = session.get_one(Draft, report().draft_id)
    assert draft.reading_id == redraft.id
    assert draft.provenance["redraft"]["instruction"] == "Follow-up after drainage."
    run = firstread(installation, "audit", "reproduce", str(draft.id), "--json")
    assert json.loads(run.stdout)["verdict"] == "identical", run.stderr
