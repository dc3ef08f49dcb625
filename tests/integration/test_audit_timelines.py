"""Timelines, incidents and late input on a history whose answers are known from its script."""

import hashlib
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, func, select

from config.errors import RefusedInputError
from db.models import AuditEvent, Instance
from tests.audit_history_support import WARNING, WEIGHTS, History, each_engine, make_history


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from each_engine(request, tmp_path_factory.mktemp("timelines"))


@pytest.fixture(scope="module")
def history(engine: Engine) -> History:
    return make_history(engine)


def _of(rows, source):
    return [one for one in rows if one["source"] == source]


# --- T1 ------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-AUDIT-24")
def test_a_study_is_told_from_reception_to_the_last_acknowledgement_in_order(history):
    rows = history.rows("T1", study="A-100")
    assert [one["at"] for one in rows] == sorted(one["at"] for one in rows)
    whats = [one["what"] for one in rows]
    told = [
        "judged", "drafted", "report:opened", "signed FINAL", "SIGNED_SR acknowledged", "signed ADDENDED",
    ]  # fmt: skip
    assert [whats.index(one) for one in told] == sorted(whats.index(one) for one in told)
    assert "SIGNED_SR committed" in whats
    assert "access:glass_broken" in whats
    with history.sessions() as session:
        number = session.scalar(select(func.count()).where(AuditEvent.study_id == history.studies["A"].study_id))
    assert len(_of(rows, "event")) == number == history.facts("timeline-study", study="A-100")["events"]


def test_a_study_tells_weights_prompts_experts_text_and_hashes(history):
    rows = history.rows("T1", study="A-100")
    draft = {one["what"]: one for one in _of(rows, "draft")}
    assert draft["model demo-vlm 1.0"]["sha256"] == f"model.bin {WEIGHTS['1.0']}"
    prompt = "Read A, please."
    assert (draft["prompt"]["said"], draft["prompt"]["sha256"]) == (prompt, hashlib.sha256(prompt.encode()).hexdigest())
    assert "model.pt" in draft["CXR answered"]["sha256"]
    assert draft["drafted"]["said"] == "findings: A nodule.\nimpression: Nodule."
    (signed, amended) = _of(rows, "signature")
    assert (signed["who"], amended["who"]) == ("Dr reader", "Dr second")
    assert len(signed["sha256"]) == 64
    assert "meaning: I reviewed the images and agree" in signed["said"]
    (seen,) = _of(rows, "images")
    assert seen["who"] == "reader"
    (rule,) = _of(rows, "rule")
    assert "rule: ct-chest" in rule["said"]
    assert "tried: ct-chest: matched" in rule["said"]


def test_an_edit_is_told_before_and_after(history):
    texts = _of(history.rows("T1", study="B-100"), "text")
    assert "“Nodule.” → “Nodule on the left.”" in texts[-1]["said"]
    assert texts[-1]["who"] == "reader"


def test_who_was_told_of_a_critical_result_is_in_the_timeline(history):
    (told,) = _of(history.rows("T1", study="C-100"), "communication")
    assert (told["who"], told["what"]) == ("reader", "critical result: nodule")
    assert "told: Dr Berg" in told["said"]


def test_files_with_their_hashes_are_told_when_asked_for(history):
    assert _of(history.rows("T1", study="F-100"), "file") == []
    files = _of(history.rows("T1", study="F-100", files="yes"), "file")
    with history.sessions() as session:
        query = select(Instance.sop_instance_uid, Instance.sha256)
        rows = session.execute(query.where(Instance.study_id == history.studies["F"].study_id)).all()
    held = {row[0]: row[1] for row in rows}
    assert len(files) == 3
    assert {one["about"]: one["sha256"] for one in files} == held


def test_a_study_is_found_by_the_uid_of_an_image_or_of_a_result(history):
    uid = "1.2.826.0.7.65.1.2"
    assert history.ask("T1", study=uid).study_id == history.studies["A"].study_id
    result = _of(history.rows("T1", study="B-100"), "result")[0]["about"]
    assert history.ask("T1", study=result).study_id == history.studies["B"].study_id


# --- T2 ------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-AUDIT-24")
def test_a_person_is_told_with_figures_and_every_event_once(history):
    facts = history.facts("T2", login="reader")
    assert facts["reports opened"] == 3  # A, F, B
    assert facts["signatures"] == 4  # and the correction of B
    assert facts["times the glass was broken"] == 0
    assert sum(value for name, value in facts.items() if name.startswith("warnings overridden")) == 1
    assert next(value for name, value in facts.items() if name.startswith("median")) == 0.0  # 0, 0, 0 and 50 seconds
    rows = history.rows("T2", login="reader")
    with history.sessions() as session:
        number = session.scalar(select(func.count()).where(AuditEvent.actor == "reader"))
    assert len({one["seq"] for one in rows}) == len(rows) == number


def test_a_warning_is_told_with_the_reason_it_was_overridden_for(history):
    rows = history.rows("T2", login="reader", which="signed")
    assert history.letters(rows) == ["B", "B", "F", "A"]
    overridden = [one["overridden"] for one in rows if one["overridden"]]
    assert overridden == [f"{WARNING['rule']} (impression): {WARNING['reason']}"]
    assert [one["seconds"] for one in rows] == [0.0, 50.0, 0.0, 0.0]


def test_breaking_the_glass_is_told_with_its_reason(history):
    (one,) = history.rows("T2", login="vera", which="glass")
    assert (one["reason"], history.letters([one])) == ("My patient is in theatre now", ["A"])
    assert history.facts("T2", login="vera")["times the glass was broken"] == 1


def test_decisions_and_failures_of_a_person_are_chosen(history):
    assert {one["tag"] for one in history.rows("T2", login="second", which="decided")} == {
        "report:rejected", "finding:decided",  # they fell with the draft
    }  # fmt: skip
    assert history.rows("T2", login="second", which="failed") == []


def test_a_person_who_is_not_there_is_refused_by_name_of_the_parameter(history):
    for login in ("nobody", "reader' --", "%"):
        with pytest.raises(RefusedInputError, match="login: there is no such account"):
            history.ask("T2", login=login)


# --- T3 ------------------------------------------------------------------------------------------------------


def test_a_version_tells_who_let_it_draft_and_on_what_grounds(history):
    rows = history.rows("T3", package="demo-vlm", version="1.0")
    assert [one["tag"] for one in rows] == [
        "licence:accepted", "model:imported", "model:switch_proposed", "model:verified", "model:switch_approved",
        "model:activated",
    ]  # fmt: skip
    approved = rows[4]
    assert (approved["proposed_by"], approved["actor"], approved["grounds"]) == (
        "alice", "bob", "answer: Agreed after the trial",
    )  # fmt: skip
    assert approved["sha256"] == "f" * 64


@pytest.mark.requirement("REQ-AUDIT-24")
def test_a_version_tells_what_it_drafted_and_what_became_of_that(history):
    facts = history.facts("T3", package="demo-vlm", version="1.0")
    assert facts["demo-vlm 1.0 abc"] == f"ACTIVE {'f' * 64}"
    assert facts["drafts"] == 4
    assert facts["drafts that were refused"] == 0
    assert facts["signed drafts whose report was amended later"] == 2  # A and B
    assert facts["reports to be read again if this version is recalled (Q13)"] == 1  # C
    assert facts["first draft"] < facts["last draft"]
    # version 2.0 was never a package of this site
    other = history.facts("T3", package="demo-vlm", version="2.0")
    assert (other["drafts"], other["drafts that were refused"]) == (3, 1)
    with pytest.raises(RefusedInputError, match="package: there is none"):
        history.ask("T3", package="demo-vlm", version="3.0")


# --- T4 ------------------------------------------------------------------------------------------------------


def test_an_incident_says_how_it_was_resolved(history):
    (failed,) = [one for one in history.rows("T4", which="readings") if one["tag"] == "reading:failed"]
    assert history.letters([failed]) == ["E"]
    assert failed["reason"] == "the GPU fell off the bus"
    assert (failed["resolved"], failed["resolved_by"]) == ("reading:drafted", "worker")
    assert failed["resolved_at"] >= failed["at"]


def test_what_was_given_up_has_no_resolution(history):
    given_up = [one for one in history.rows("T4", which="deliveries") if one["tag"] == "delivery:failed"]
    assert history.letters(given_up) == ["B"]
    assert (given_up[0]["reason"], given_up[0]["resolved"]) == ("A700 out of resources", "")
    (escalated,) = history.rows("T4", which="critical")
    assert (history.letters([escalated]), escalated["resolved"]) == (["D"], "")


def test_all_incidents_are_those_of_every_kind_each_once(history):
    every = history.rows("T4")
    parts = [row for which in ("readings", "deliveries", "reception", "people", "critical")
             for row in history.rows("T4", which=which)]  # fmt: skip
    keys = [(one["at"], one["tag"], one["object_id"]) for one in every]
    assert len(keys) == len(set(keys))
    assert {(one["at"], one["tag"], one["object_id"]) for one in parts} <= set(keys)
    with history.sessions() as session:
        failed = session.scalars(select(AuditEvent.tag).where(AuditEvent.outcome != "success")).all()
    assert sorted(set(failed)) == sorted({tag for _, tag, _ in keys} & set(failed))


def test_drafts_that_came_late_are_told_by_how_much(history):
    assert history.rows("T4", which="delays") == []
    late = history.rows("T4", which="delays", minutes="0")
    assert sorted(history.letters(late)) == list("ABCDEFG")
    assert all(one["reason"].endswith("minutes after the study was whole") for one in late)


def test_more_than_a_month_of_incidents_is_refused(history):
    with pytest.raises(RefusedInputError, match="since: at most 31 days"):
        history.ask("T4", since="-40d")


# --- T5 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "letters"), [("any", "GF"), ("signature", "F"), ("draft", "G"), ("nothing", "GF")]
)  # fmt: skip
def test_late_images_are_told_by_what_they_came_after(history, after, letters):
    assert history.letters(history.rows("T5", after=after)) == list(letters)


def test_late_images_say_where_the_report_stands_and_that_nobody_saw_them_yet(history):
    g, f = history.rows("T5")
    assert (f["after"], f["report_state"], f["late_images"]) == ("a signature", "FINAL", True)
    assert (g["after"], g["report_state"], g["late_images"]) == ("a draft", "UNREAD", False)
    assert (f["seen"], f["seen_at"]) == ("", None)
    assert f["tag"] == "study:revised"
