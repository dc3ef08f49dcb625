"""What a draft was made from is on record, and its attempt can be run again."""

import hashlib
import json
import re

import pytest
from sqlalchemy import func, select

from config.errors import AlteredInstanceError, RefusedInputError
from db import queries
from db.models import Instance, ResultObject
from db.report_models import Draft
from db.types import ReadingState
from tests.fakes import FixedClassifier, ScriptedVlm, reads_feedback
from tests.integration.test_worker_reader import (  # noqa: F401 installation is a fixture
    TRIGGER,
    OneExpert,
    ScriptedPipeline,
    installation,
    state_of,
)
from worker.reader import Reader
from worker.reproduce import reproduce


class OtherPipeline(ScriptedPipeline):
    """The real pipeline whose classifier is a little, or much, less sure of the effusion."""

    effusion = 0.7

    def models(self):
        experts = OneExpert(FixedClassifier({"Effusion": self.effusion, "Pneumothorax": 0.9}))
        return ScriptedVlm(TRIGGER, reads_feedback), experts


class BlindPipeline(OtherPipeline):
    effusion = 0.2


def alter_the_image(settings, sessions):
    """Change one bit of the one kept Instance behind everybody's back."""
    with sessions() as session:
        path = settings.instances_dir / session.scalars(select(Instance.path)).one()
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.chmod(0o640)
    path.write_bytes(content)


@pytest.fixture
def drafted(installation):  # noqa: F811
    settings, sessions, reading_id = installation
    Reader(sessions, settings, ScriptedPipeline(sessions, settings)).read(reading_id)
    with sessions() as session:
        draft = session.scalars(select(Draft)).one()
    return settings, sessions, draft


@pytest.mark.requirement("REQ-AUDIT-9")
def test_the_record_says_what_a_regulator_asks(drafted):
    settings, sessions, draft = drafted
    record = json.loads(json.dumps(draft.provenance))
    with sessions() as session:
        instance = session.scalars(select(Instance)).one()
        objects = session.scalars(select(ResultObject)).all()
    assert record["instances_sha256"] == {instance.sop_instance_uid: instance.sha256}
    assert record["instances_not_used"] == []
    assert record["priors_used"] == []
    assert {(o["sop_instance_uid"], o["sha256"]) for o in record["objects"]} == {
        (o.sop_instance_uid, hashlib.sha256((settings.results_dir / o.path).read_bytes()).hexdigest()) for o in objects
    }
    assert [(m["role"], m["research_only"], m["demonstration"]) for m in record["models"]] == [
        ("VLM", False, True), ("CXR", False, True),
    ]  # fmt: skip
    assert record["models"][0]["weights_sha256"] == {"model.safetensors": "0" * 64}
    named = b"".join((settings.results_dir / o.path).read_bytes() for o in objects)
    for model in record["models"]:
        assert model["device_uid"].encode() in named  # as in the objects that were made
        assert model["regulatory"] == {}  # nobody cleared a demonstration
    assert record["decoding"] == {
        "mode": "greedy", "temperature": 0.0, "top_p": None, "seed": None, "max_new_tokens": 256, "dtype": "none",
    }  # fmt: skip
    assert record["job"]["attempt"] == 1
    assert record["job"]["study_id"] == str(draft.study_id)
    assert set(record["job"]["seconds"]) == {"intake", "models", "drafting", "objects"}
    assert re.fullmatch("[0-9a-f]{64}", record["preprocessing"]["code_sha256"])
    assert re.fullmatch("[0-9a-f]{64}", record["preprocessing"]["settings_sha256"])
    assert re.fullmatch("[0-9a-f]{64}", record["environment"]["lock_sha256"])
    assert record["environment"]["packages"]["torch"].startswith("2.")
    assert record["outcome"]["sections"] == draft.sections
    assert record["outcome"]["findings"]["Effusion"] == {
        "present": True, "expert_positive": True, "score": 0.8, "laterality": "",
    }  # fmt: skip
    assert "This is a CXR image." in json.dumps(record["conversations"])


@pytest.mark.requirement("REQ-PRIV-4")
def test_the_record_names_no_patient(drafted):
    settings, sessions, draft = drafted
    with sessions() as session:
        study = queries.study_detail(session, draft.study_id).study
    text = json.dumps(draft.provenance)
    assert len(study.patient_name) > 3
    for secret in (study.patient_name, study.patient_id, study.patient_birth_date, str(settings.data_dir)):
        assert secret not in text


@pytest.mark.requirement("REQ-AUDIT-10")
def test_the_same_models_give_the_identical_draft_and_nothing_is_written(drafted):
    settings, sessions, draft = drafted
    before = sorted((p, p.stat().st_mtime_ns) for p in settings.results_dir.rglob("*"))
    result = reproduce(ScriptedPipeline(sessions, settings), sessions, draft.id)
    assert (result.verdict, result.differences, result.circumstances) == ("identical", (), ())
    assert sorted((p, p.stat().st_mtime_ns) for p in settings.results_dir.rglob("*")) == before
    with sessions() as session:
        assert session.scalar(select(func.count()).select_from(Draft)) == 1


def test_another_score_with_the_same_decision_is_the_same_findings(drafted):
    settings, sessions, draft = drafted
    result = reproduce(OtherPipeline(sessions, settings), sessions, draft.id)
    assert result.verdict == "same findings"
    assert "findings: Effusion (score 0.8 → 0.7)" in result.differences


@pytest.mark.requirement("REQ-AUDIT-10")
def test_another_decision_differs_and_says_where(drafted):
    settings, sessions, draft = drafted
    result = reproduce(BlindPipeline(sessions, settings), sessions, draft.id)
    assert result.verdict == "differs"
    assert any(
        d.startswith("findings: Effusion (expert_positive True → False, present True → False")
        for d in result.differences
    )
    assert "sections: findings" in result.differences


@pytest.mark.requirement("REQ-BIND-7")
def test_an_altered_image_is_never_read_and_never_reproduced(drafted):
    settings, sessions, draft = drafted
    alter_the_image(settings, sessions)
    with pytest.raises(AlteredInstanceError, match="not what was received"):
        reproduce(ScriptedPipeline(sessions, settings), sessions, draft.id)


@pytest.mark.requirement("REQ-BIND-7")
def test_a_study_altered_on_disk_ends_without_a_draft_and_says_why(installation):  # noqa: F811
    settings, sessions, reading_id = installation
    alter_the_image(settings, sessions)
    Reader(sessions, settings, ScriptedPipeline(sessions, settings)).read(reading_id)
    reading = state_of(sessions, reading_id)
    assert reading.state is ReadingState.NO_DRAFT
    assert "store was altered" in reading.reason


def test_a_draft_that_is_none_is_refused(drafted):
    settings, sessions, draft = drafted
    with pytest.raises(RefusedInputError, match="no draft"):
        reproduce(ScriptedPipeline(sessions, settings), sessions, draft.study_id)


@pytest.mark.requirement("REQ-AUDIT-11")
def test_the_human_side_joins_the_record(drafted):
    _, sessions, draft = drafted
    with sessions() as session:
        human = queries.human_side(session, draft)
    assert human["report_state"] == "DRAFTED"
    assert [d["decision"] for d in human["decisions"]] == ["pending"] * 2
    assert human["edits"] == []
    assert {o["kind"]: [d["destination"] for d in o["deliveries"]] for o in human["objects"]} == {
        "FINDINGS_SR": ["pacs"], "KEY_IMAGES": ["pacs"], "DRAFT_SR": ["pacs"],
    }  # fmt: skip
