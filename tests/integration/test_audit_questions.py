"""The named questions Q1 to Q7 on a history whose answers are known, on both databases."""

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import select

from config.errors import RefusedInputError
from db.models import AuditEvent
from db.queries.audit import ALL, named
from db.queries.audit.asking import pages, snapshot, stand
from db.queries.audit.changed_words import changed_degrees, changed_sentences, changed_sides
from db.queries.audit.parameters import read
from tests.audit_questions_support import (
    CXR_WEIGHTS,
    GATE,
    TIMEOUT,
    VLM_FILES,
    VLM_WEIGHTS,
    History,
    by_column,
    counted,
    history_on,
)

pytestmark = pytest.mark.requirement("REQ-AUDIT-26")
DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)]


@pytest.fixture(scope="module", params=DATABASES)
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    with history_on(request, tmp_path_factory.mktemp("history")) as made:
        yield made


def studies(history: History, rows: list[dict[str, Any]]) -> list[str]:
    return sorted(history.name_of(row["study"]) for row in rows)


# --- Q1 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"model": "vila"}, ["badly", "incomplete", "late", "rejected", "well"]),
        ({"model": "vila", "version": "1.0"}, ["late", "well"]),
        ({"model": "vila", "version": "1.1", "site": "SCANNER"}, ["badly", "rejected"]),
        ({"site": "OTHER", "kind": "vlm"}, ["incomplete"]),
        ({"weights": VLM_FILES["model-2.safetensors"], "version": "1.0"}, ["late", "well"]),
        ({"weights": VLM_WEIGHTS.upper(), "version": "1.0"}, ["late", "well"]),
        ({"weights": CXR_WEIGHTS, "site": "OTHER"}, ["incomplete"]),
        ({"weights": "9" * 64}, []),
        ({"kind": "expert"}, ["badly", "incomplete", "late", "rejected", "well"]),
        ({"model": "vila' OR '1'='1"}, []),
        ({"model": "%"}, []),
    ],
)
def test_drafts_are_found_by_model_version_weights_and_site(history, given, names):
    assert studies(history, history.rows("Q1", **given)) == names


def test_drafts_are_found_by_the_time_they_were_made(history):
    cut = history.moments["after the first"].isoformat()
    assert studies(history, history.rows("Q1", kind="vlm", until=cut)) == ["well"]
    later = history.rows("Q1", kind="vlm", since=cut, until=(datetime.now(UTC) + timedelta(days=1)).isoformat())
    assert studies(history, later) == ["badly", "incomplete", "late", "rejected"]


def test_a_draft_says_what_became_of_it(history):
    rows = {history.name_of(row["study"]): row for row in history.rows("Q1", kind="vlm")}
    assert {name: row["report"] for name, row in rows.items()} == {
        "well": "FINAL", "badly": "FINAL", "late": "FINAL", "rejected": "REJECTED", "incomplete": "DRAFTED",
    }  # fmt: skip
    assert (rows["well"]["weights_sha256"], rows["well"]["site"], rows["well"]["modalities"]) == (
        VLM_WEIGHTS, "SCANNER", "CT",
    )  # fmt: skip


# --- Q2 ------------------------------------------------------------------------------------------------------


def test_accesses_to_a_patient_are_those_of_that_patient_and_issuer(history):
    rows = history.rows("Q2", patient_id="P-77", issuer="HOSP")
    assert [(row["who"], row["what"], row["outcome"]) for row in rows if row["kind"] == "person"] == [
        ("ada", "access:glass_used", "success"),
        ("ada", "access:glass_broken", "success"),
        ("ada", "access:refused", "failure"),
        ("ida", "images:viewed", "success"),
    ]
    assert {row["accession"] for row in rows} == {"A-77"}
    assert {row["kind"] for row in rows} == {"person", "peer"}  # the scanner that sent it
    by_what = {row["what"]: row for row in rows}
    assert by_what["images:viewed"]["from"] == "10.0.0.5"
    assert by_what["images:viewed"]["role"] == "radiologist"
    for what in ("access:glass_used", "access:glass_broken"):
        assert by_what[what]["reason"] == "patient collapsed in the hall"
        assert by_what[what]["break_glass"] is True
    assert by_what["access:refused"]["break_glass"] is False
    both = history.rows("Q2", patient_id="P-77")
    assert {row["accession"] for row in both} == {"A-77", "A-78"}


def test_accesses_are_asked_by_accession_number_or_uid_and_by_kind(history):
    assert [row["what"] for row in history.rows("Q2", accession="A-77", which="failed")] == ["access:refused"]
    left = history.rows("Q2", study_uid=history.studies["patient"].study().study_instance_uid, which="left")
    assert [row["what"] for row in left] == ["delivery:delivered"]
    everything = history.rows("Q2", accession="A-77", which="all")
    assert len(everything) > len(history.rows("Q2", accession="A-77")) + 1
    assert history.rows("Q2", accession="A-77", until="-1d") == []


def test_a_patient_who_is_not_here_has_no_accesses_and_nobody_is_everybody(history):
    asked = history.ask("Q2", patient_id="P-none")
    assert (list(asked.rows), list(asked.facts)) == ([], [("studies", 0)])
    for given in ({}, {"issuer": "HOSP"}, {"patient_id": "  "}):
        with pytest.raises(RefusedInputError, match=r"^patient_id: "):
            history.ask("Q2", **given)


def test_what_names_a_patient_is_said_apart_in_the_event_of_the_asking(history):
    said = history.ask("Q2", patient_id="P-77", issuer="HOSP").said()
    assert said["patient"] == {"patient_id": "P-77", "issuer": "HOSP"}
    openly = json.dumps({name: value for name, value in said.items() if name != "patient"})
    assert "P-77" not in openly
    assert "HOSP" not in openly
    # so a digest that could be tried out holds none of it
    assert said["digest"] == history.ask("Q2", patient_id="P-1").said()["digest"]


# --- Q3 ------------------------------------------------------------------------------------------------------


def test_overrides_are_listed_finding_by_finding(history):
    asked = history.ask("Q3")
    rows = [by_column(asked, row) for row in asked.rows]
    # a draft that was rejected took its two undecided findings with it
    assert counted(rows, "what") == {
        ("the text was changed",): 1,
        ("a finding was rejected",): 3,
        ("the whole draft was rejected",): 1,
    }
    facts = dict(asked.facts)
    assert [facts[f"drafts {verdict}"] for verdict in ("unchanged", "edited", "rejected")] == [2, 1, 1]
    (text,) = (row for row in rows if row["what"] == "the text was changed")
    # "Nodule." became "Mild effusion on the left. Nodule."
    assert (text["sides"], text["degrees"], text["added"], text["removed"]) == ("none → left", "none → mild", 1, 0)
    assert (text["sections"], text["edits"], text["words"]) == ("impression", 5, 3)
    (whole,) = (row for row in rows if row["what"] == "the whole draft was rejected")
    assert (whole["reader"], whole["reason"]) == ("ida", "WRONG_SIDE: on the left")
    (finding,) = (row for row in rows if row["reason"] == "a vessel")
    assert (finding["finding"], finding["ai_said"], finding["score"], finding["reader"]) == (
        "nodule",
        "present",
        0.9,
        "max",
    )


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ({"what": "side_changed"}, 1),
        ({"what": "finding_rejected"}, 3),
        ({"what": "finding_rejected", "reader": "max"}, 1),
        ({"finding": "Nodule"}, 2),
        ({"model": "vila 1.1"}, 5),
        ({"model": "vila 1.0"}, 0),
        ({"until": "-1d"}, 0),
    ],
)
def test_overrides_are_narrowed(history, given, count):
    assert len(history.rows("Q3", **given)) == count


def test_sides_degrees_and_sentences_are_compared_as_words():
    drafted = {"findings": "Small nodule in the right lung. No effusion.", "history": "left"}
    signed = {"findings": "Moderate nodule in the left lung.\nNo effusion.", "history": "both"}
    assert changed_sides(drafted, signed) == "right → left"
    assert changed_degrees(drafted, signed) == "small → moderate"
    assert changed_sentences(drafted, signed) == (1, 1)
    assert (changed_sides(drafted, drafted), changed_degrees(drafted, drafted)) == ("", "")


# --- Q4 ------------------------------------------------------------------------------------------------------


def test_a_draft_of_another_release_cannot_be_run_again_and_says_what_it_was_made_from(history):
    draft_id = history.studies["well"].draft_id
    asked = history.ask("Q4", draft=str(draft_id))
    facts = dict(asked.facts)
    assert facts["can be run again"] == "no"  # its record has not the shape of a real one
    assert facts["command"] == f"firstread audit reproduce {draft_id}"
    rows = [by_column(asked, row) for row in asked.rows]
    assert [row["then"] for row in rows if row["part"] == "model"] == [VLM_WEIGHTS, CXR_WEIGHTS]
    assert {row["name"]: row["then"] for row in rows if row["part"] == "weights"} == {
        "vila: model-1.safetensors": "1" * 64,
        "vila: model-2.safetensors": "2" * 64,
        "CXR: model.pt": CXR_WEIGHTS,
    }


def test_a_draft_that_is_not_here_is_refused(history):
    with pytest.raises(RefusedInputError, match=r"^draft: "):
        history.ask("Q4", draft="00000000-0000-4000-8000-000000000000")
    with pytest.raises(RefusedInputError, match=r"^draft: it is needed"):
        history.ask("Q4")


# --- Q5 ------------------------------------------------------------------------------------------------------


def test_the_log_of_a_time_has_its_seals_heads_and_anchors(history):
    with history.sessions() as session:
        instants = sorted(session.scalars(select(AuditEvent.occurred_at)))
        told = stand(session)
    count = len(instants)
    assert history.head is not None
    assert (told.size, told.root, told.waiting) == (count, history.head.root.hex(), 0)
    asked = history.ask("Q5")
    facts = dict(asked.facts)
    assert (facts["events"], facts["first event at"], facts["last event at"]) == (count, instants[0], instants[-1])
    assert facts["places without a seal between them"] == 0
    assert facts["covered by the head of"] == f"{count} events"
    assert facts["its root"] == history.head.root.hex()
    assert str(facts["outside this system"]).startswith("file ")
    assert facts["last verification"] == "none is on record"
    (row,) = (by_column(asked, row) for row in asked.rows)
    assert (row["size"], row["root"], row["key"]) == (count, history.head.root.hex(), history.head.signed_by[0])
    some = dict(history.ask("Q5", until=instants[9].isoformat()).facts)
    assert some["events"] == sum(one < instants[9] for one in instants)
    empty = history.ask("Q5", since="2001-01-01", until="2001-01-02")
    assert (dict(empty.facts)["events"], list(empty.rows)) == (0, [])


# --- Q6 ------------------------------------------------------------------------------------------------------

STALE, NO_PROOF = "the proof of identity was older than allowed", "no event of a proof of identity"
UNOPENED, FAST = "the signer had not opened the study", "images seen for less than T seconds"


def faults(history: History, **given: str) -> dict[str, list[str]]:
    return {history.name_of(row["study"]): row["faults"].split("; ") for row in history.rows("Q6", **given)}


def test_signatures_in_doubt_are_those_with_a_fault(history):
    assert faults(history) == {"badly": [NO_PROOF, FAST], "incomplete": [NO_PROOF, UNOPENED, FAST]}
    assert faults(history, fresh_s="120")["late"] == [STALE]
    assert faults(history, least_s="43")["well"] == [FAST]
    assert "well" not in faults(history, least_s="42")
    assert list(faults(history, fault="not_opened")) == ["incomplete"]
    assert list(faults(history, signer="ida", fresh_s="120")) == ["late"]
    assert faults(history, until="-1d") == {}


def test_a_signature_tells_the_event_of_its_proof(history):
    rows = {history.name_of(row["study"]): row for row in history.rows("Q6", least_s="43", fresh_s="120")}
    assert rows["badly"]["proof_event"] is None
    assert (rows["badly"]["viewed_s"], rows["well"]["viewed_s"], rows["incomplete"]["viewed_s"]) == (3.0, 42.0, None)
    proof = history.rows("Q6", least_s="43", signer="ida", fault="fast")[0]["proof_event"]
    assert isinstance(proof, int)
    assert rows["late"]["proof_age_s"] == pytest.approx(240, abs=5)


# --- Q7 ------------------------------------------------------------------------------------------------------


def test_refusals_and_failures_are_counted_by_reason(history):
    asked = history.ask("Q7")
    assert dict(asked.facts) == {
        f"gate: {GATE}": 2,
        "pipeline: the model broke its contract": 1,
        f"expert: {TIMEOUT}": 2,
    }
    rows = [by_column(asked, row) for row in asked.rows]
    assert counted(rows, "kind", "reason") == {
        ("gate", GATE): 2, ("pipeline", "the model broke its contract"): 1, ("expert", TIMEOUT): 2,
    }  # fmt: skip
    assert sorted(row["what"] for row in rows if row["kind"] == "expert") == ["brain", "liver"]
    assert [row["at"] for row in rows] == sorted((row["at"] for row in rows), reverse=True)
    assert len(history.rows("Q7", kind="gate")) == 2
    assert len(history.rows("Q7", reason=TIMEOUT)) == 2
    assert history.rows("Q7", reason="' OR true --") == []


# --- every question ------------------------------------------------------------------------------------------

ASKED: dict[str, dict[str, str]] = {
    "Q1": {},
    "Q2": {"patient_id": "P-77", "which": "all"},
    "Q3": {},
    "Q6": {"least_s": "100000"},
    "Q7": {},
}


@pytest.mark.parametrize("name", ASKED)
def test_pages_give_every_row_once_and_in_order(history, name):
    whole = list(history.ask(name, limit=500, **ASKED[name]).rows)
    assert len(whole) >= 4
    for limit in (1, 2, 3):
        found: list[Any] = []
        cursor, rounds = "", 0
        while cursor or not rounds:
            asked = history.ask(name, limit=limit, cursor=cursor, **ASKED[name])
            assert len(asked.rows) <= limit
            found += asked.rows
            cursor, rounds = asked.next_cursor, rounds + 1
        assert found == whole
    with history.sessions() as session:
        snapshot(session)
        assert [row for page in pages(session, ALL[name], ASKED[name]) for row in page.rows] == whole


@pytest.mark.parametrize("name", [*ASKED, "Q4"])
def test_a_cursor_is_of_its_question_and_parameters(history, name):
    given = ASKED.get(name) or {}
    if name == "Q4":
        given = {"draft": str(history.studies["well"].draft_id)}
    cursor = history.ask(name, limit=1, **given).next_cursor
    with pytest.raises(RefusedInputError, match=r"^cursor: "):
        history.ask("Q1", limit=1, cursor=cursor, model="vila")
    mark = json.loads(base64.urlsafe_b64decode(cursor + "=="))[0]
    for key in ([], ["x"], [None], [1, 2, 3, 4, 5], ["2026-01-01", "x", "y", "z"], [10**30], ["\x00", 1, 2]):
        forged = base64.urlsafe_b64encode(json.dumps([mark, *key]).encode()).decode()
        with pytest.raises(RefusedInputError, match=r"^cursor: "):
            history.ask(name, limit=1, cursor=forged, **given)
    for nonsense in ("x", "%%%", "ÿ", "W10", base64.urlsafe_b64encode(b"[" * 100_000).decode()):
        with pytest.raises(RefusedInputError, match=r"^cursor: "):
            history.ask(name, limit=1, cursor=nonsense, **given)


def test_bad_parameters_are_refused_by_name_and_never_repeated(history):
    bad = [
        ("Q1", {"since": "yesterday"}, "since"),
        ("Q1", {"since": "2026-11-22T10:00:00"}, "since"),  # an instant without a zone names none
        ("Q1", {"since": "today", "until": "-1d"}, "until"),
        ("Q1", {"until": "0001-01-01T00:00:00+14:00"}, "until"),
        ("Q1", {"kind": "everything"}, "kind"),
        ("Q1", {"model": "x" * 65}, "model"),
        ("Q1", {"model": "SECRET\x00"}, "model"),
        ("Q1", {"model": "SECRET\ud800"}, "model"),
        ("Q6", {"fresh_s": "nan"}, "fresh_s"),
        ("Q6", {"least_s": "-1"}, "least_s"),
        ("Q4", {"draft": "SECRET"}, "draft"),
    ]
    for name, given, parameter in bad:
        with pytest.raises(RefusedInputError, match=f"^{parameter}: ") as refused:
            history.ask(name, **given)
        assert "SECRET" not in str(refused.value)
    with pytest.raises(RefusedInputError, match="no parameter 'colour'"):
        history.ask("Q1", colour="red")
    for limit in (0, 501):
        with pytest.raises(RefusedInputError, match=r"^limit: "):
            history.ask("Q1", limit=limit)


def test_days_are_days_of_the_zone():
    vienna = ZoneInfo("Europe/Vienna")
    answers = read(ALL["Q1"], {"since": "2026-10-25", "until": "2026-10-25"}, zone=vienna)
    # summer time ended that night: the day had 25 hours
    assert answers.period() == (datetime(2026, 10, 24, 22, tzinfo=UTC), datetime(2026, 10, 25, 23, tzinfo=UTC))
    exact = read(ALL["Q1"], {"since": "2026-10-25T01:00:00+02:00", "until": "2026-10-25T01:00:00Z"}, zone=vienna)
    assert exact.period() == (datetime(2026, 10, 24, 23, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC))
    given = read(ALL["Q1"], {}, zone=vienna).given
    assert datetime.fromisoformat(given["until"]) - datetime.fromisoformat(given["since"]) == timedelta(days=30)


def test_questions_are_named_and_documented(history):
    assert [name for name in ALL if name.startswith("Q")] == [f"Q{number}" for number in range(1, 15)]
    for one in ALL.values():
        assert named(one.slug) is one is named(one.name.lower())
        assert one.asks.endswith("?")
        assert one.source
        assert len({column.name for column in one.columns}) == len(one.columns)
        assert len({parameter.name for parameter in one.parameters}) == len(one.parameters)
    assert named("Q99") is None
