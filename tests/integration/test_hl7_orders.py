"""Orders from messages: read, kept, and attached to the Study that answers them, whichever comes first."""

from pathlib import Path

import pytest
from sqlalchemy import select

from config.routing import RoutingVerdict
from config.settings import Settings
from db.models import AuditEvent, ImagingOrder
from db.types import Priority, ReadingState
from ris.receiving import answer
from tests.db_support import Sessions, received
from tests.hl7_support import line, msh, sent

STUDY = "1.2.826.0.1"
PID = line("PID", f3="P-1^^^HOSP^MR", f5="Doe^Jane", f7="19700102", f8="F")
ROUTINE = RoutingVerdict("draft", profile="chest-ct", rule="ct-chest", priority="ROUTINE", trace=[])
URGENT = RoutingVerdict("draft", profile="chest-ct", rule="ct-chest", priority="URGENT", trace=[])


@pytest.fixture
def tell(sessions: Sessions, tmp_path: Path):
    """Hand a message to the node; returns MSA-1."""
    settings = Settings(data_dir=tmp_path)
    count = iter(range(1, 100))

    def told(*lines: str, kind: str = "ORM^O01") -> str:
        content = sent(msh(kind, f"M{next(count)}"), *lines)
        return answer(content, settings, sessions).decode().split("\rMSA|")[1][:2]

    return told


def order(control: str = "NW", accession: str = "A-1", placer: str = "PL-1", **changes: str) -> list[str]:
    """PID, ORC and OBR of one order."""
    obr = {"f2": placer, "f4": "CTCH^CT Chest^L", "f16": "O-1^Order^Olga^M^jr.^Dr.", "f18": accession}
    return [PID, line("ORC", f1=control, f2=placer, f3="FI-1"), line("OBR", **(obr | changes))]


def orders(sessions: Sessions) -> list[ImagingOrder]:
    """All orders, by Accession Number."""
    with sessions() as session:
        return list(session.scalars(select(ImagingOrder).order_by(ImagingOrder.accession_number)))


def events(sessions: Sessions, *subjects: str) -> list[AuditEvent]:
    """Audit events about these, in order."""
    with sessions() as session:
        rows = session.scalars(select(AuditEvent).order_by(AuditEvent.seq)).all()
    return [one for one in rows if one.tag.split(":")[0] in subjects]


def test_every_part_of_an_order_has_its_place(tell, sessions):
    visit = line("PV1", f2="I", f3="WARD^101^2^HOSP", f19="V-1")
    pid, orc, obr = order(f31="^Cough & fever, \\T\\ weight loss~R05^Cough^I10")
    assert tell(pid, visit, orc, obr, "TQ1|1||||||||S", f"ZDS|{STUDY}^FIRSTREAD^Application^DICOM") == "AA"
    (kept,) = orders(sessions)
    assert (kept.sender, kept.placer_order_number, kept.filler_order_number) == ("RIS|HOSP", "PL-1", "FI-1")
    assert (kept.accession_number, kept.study_instance_uid) == ("A-1", STUDY)
    assert (kept.patient_id, kept.issuer_of_patient_id, kept.patient_name) == ("P-1", "HOSP", "Doe^Jane")
    assert (kept.patient_birth_date, kept.patient_sex) == ("19700102", "F")
    assert (kept.procedure_code, kept.procedure_text, kept.procedure_scheme) == ("CTCH", "CT Chest", "L")
    assert kept.indication == "Cough & fever, & weight loss\nCough"
    assert kept.priority is Priority.STAT
    # XCN has the suffix before the prefix, a PN the other way round
    assert (kept.ordering_provider, kept.ordering_provider_id) == ("Order^Olga^M^Dr.^jr.", "O-1")
    assert (kept.visit_number, kept.patient_class, kept.patient_location) == ("V-1", "I", "WARD 101 2 HOSP")


def test_an_omi_message_says_the_same_in_its_own_places(tell, sessions):
    ipc = line("IPC", f1="A-7^RIS", f2="RP-1", f3=f"{STUDY}^RIS", f4="SPS-1", f5="CT")
    lines = [PID, "ORC|NW|PL-7|FI-7", "TQ1|1||||||||A", line("OBR", f2="PL-7", f4="CT^CT", f13="Trauma"), ipc]
    assert tell(*lines, kind="OMI^O23^OMI_O23") == "AA"
    (kept,) = orders(sessions)
    assert (kept.accession_number, kept.study_instance_uid) == ("A-7", STUDY)
    assert (kept.priority, kept.indication) == (Priority.URGENT, "Trauma")


@pytest.mark.parametrize(
    ("changes", "note", "expected"),
    [
        ({"f31": "R05^Cough", "f13": "Other"}, "NTE|1||Note", "Cough"),
        ({"f31": "Free text"}, "", "Free text"),
        ({"f13": "Smoker~Fever"}, "NTE|1||Note", "Smoker\nFever"),
        ({}, "NTE|1||First~line", "First\nline"),
        ({}, "", ""),
    ],
)
def test_the_indication_is_taken_from_where_it_stands(tell, sessions, changes, note, expected):
    assert tell(*order(**changes), *([note] if note else [])) == "AA"
    assert orders(sessions)[0].indication == expected


@pytest.mark.parametrize(
    ("orc7", "obr27", "tq1", "expected"),
    [
        ("", "", "S", Priority.STAT),
        ("^^^^^S", "", "", Priority.STAT),
        ("", "^^^^^A", "", Priority.URGENT),
        ("^^^^^R", "", "S^Stat^HL70485", Priority.STAT),
        ("^^^^^ZZ", "^^^^^S", "", Priority.STAT),
        ("", "", "", Priority.ROUTINE),
    ],
)
def test_the_priority_is_taken_from_where_it_stands(tell, sessions, orc7, obr27, tq1, expected):
    pid, _, obr = order(f27=obr27)
    assert tell(pid, f"ORC|NW|PL-1|||||{orc7}", obr, f"TQ1|1||||||||{tq1}") == "AA"
    assert orders(sessions)[0].priority is expected


def test_one_message_may_ask_for_several_procedures_of_one_study(tell, sessions):
    second = line("OBR", f2="PL-1", f4="CTAB^CT Abdomen", f18="A-2")
    third = ["ORC|NW|PL-3", line("OBR", f2="PL-3", f4="CTPE^CT Pelvis", f18="A-3")]
    assert tell(*order(), second, *third, f"ZDS|{STUDY}") == "AA"
    kept = orders(sessions)
    assert [one.procedure_text for one in kept] == ["CT Chest", "CT Abdomen", "CT Pelvis"]
    assert {one.study_instance_uid for one in kept} == {STUDY}


def test_without_an_accession_number_the_fillers_number_is_it(tell, sessions):
    assert tell(*order(accession="")) == "AA"
    assert orders(sessions)[0].accession_number == "FI-1"


def test_an_order_without_any_number_is_refused_and_nothing_of_its_message_is_kept(tell, sessions):
    assert tell(*order(), "ORC|NW", "OBR|1|||CT^CT") == "AR"
    assert orders(sessions) == []


def test_a_change_is_the_same_order_and_keeps_what_it_does_not_say(tell, sessions):
    tell(*order(f31="^Cough"))
    tell(*order("XO", f4="CTAB^CT Abdomen^L"))
    (kept,) = orders(sessions)
    assert (kept.procedure_text, kept.indication) == ("CT Abdomen", "Cough")
    tags = [(e.tag, e.detail.get("changed")) for e in events(sessions, "order")]
    assert tags == [("order:received", None), ("order:updated", ["procedure_code", "procedure_text"])]


@pytest.mark.parametrize("control", ["CA", "OC", "DC"])
def test_a_cancelled_order_leaves_its_study_alone_and_is_recorded(tell, sessions, control):
    journey = received(sessions).queued(ROUTINE)
    tell(*order())
    assert tell(PID, f"ORC|{control}|PL-1") == "AA"
    (kept,) = orders(sessions)
    assert (kept.cancelled, journey.study().order_id, journey.reading().state) == (True, kept.id, ReadingState.QUEUED)
    assert [(e.tag, e.study_id) for e in events(sessions, "order")][-1] == ("order:cancelled", journey.study_id)


def test_a_cancellation_after_which_the_order_is_placed_anew_is_taken_back(tell, sessions):
    tell(*order())
    tell(*order("CA"))
    tell(*order())
    assert not orders(sessions)[0].cancelled


def test_an_order_finds_the_study_that_is_there(tell, sessions):
    journey = received(sessions).queued(ROUTINE)
    assert tell(*order()) == "AA"
    assert journey.study().order_id == orders(sessions)[0].id
    attached = [e for e in events(sessions, "order") if e.tag == "order:attached"]
    assert [(e.study_id, e.detail["by"]) for e in attached] == [(journey.study_id, "Accession Number")]


def test_a_study_finds_the_order_that_was_there_first(tell, sessions):
    tell(*order(accession="OTHER"), f"ZDS|{STUDY}")
    journey = received(sessions)
    assert journey.study().order_id is None
    journey.queued(ROUTINE)
    assert journey.study().order_id == orders(sessions)[0].id
    assert [e.detail["by"] for e in events(sessions, "order") if e.tag == "order:attached"] == ["Study UID"]


@pytest.mark.requirement("REQ-BIND-5")
@pytest.mark.parametrize("first", ["order", "study"])
def test_an_order_of_another_patient_is_not_attached_and_that_is_recorded(tell, sessions, first):
    journey = received(sessions, patient_id="P-2")
    if first == "order":
        tell(*order(), f"ZDS|{STUDY}")
        journey.queued(ROUTINE)
    else:
        journey.queued(ROUTINE)
        tell(*order(), f"ZDS|{STUDY}")
    assert journey.study().order_id is None
    refused = [e for e in events(sessions, "order") if e.outcome == "failure"]
    assert {(e.tag, e.study_id, e.detail["reason"]) for e in refused} == {
        ("order:attached", journey.study_id, "it is another patient's")
    }


@pytest.mark.parametrize(("issuer", "is_attached"), [("", True), ("HOSP", True), ("ELSEWHERE", False)])
def test_the_issuer_of_the_patient_id_counts_when_both_sides_state_one(tell, sessions, issuer, is_attached):
    journey = received(sessions, issuer_of_patient_id=issuer).queued(ROUTINE)
    tell(*order())
    assert (journey.study().order_id is not None) == is_attached


@pytest.mark.requirement("REQ-CRIT-6")
@pytest.mark.parametrize("first", ["order", "study"])
@pytest.mark.parametrize(
    ("routed", "ordered", "expected"),
    [(ROUTINE, "S", "STAT"), (ROUTINE, "A", "URGENT"), (URGENT, "R", "URGENT"), (URGENT, "S", "STAT")],
)
def test_an_order_raises_the_priority_and_never_lowers_it(tell, sessions, first, routed, ordered, expected):
    lines = [*order(), f"TQ1|1||||||||{ordered}"]
    if first == "order":
        tell(*lines)
        journey = received(sessions).queued(routed)
    else:
        journey = received(sessions).queued(routed)
        tell(*lines)
    assert journey.reading().priority == expected
    raised = [e.detail for e in events(sessions, "reading") if e.tag == "reading:priority_raised"]
    assert raised == ([{"from": routed.priority, "to": expected}] if routed.priority != expected else [])


def test_a_study_keeps_its_order_until_that_one_is_cancelled(tell, sessions):
    journey = received(sessions).queued(ROUTINE)
    tell(*order())
    first = journey.study().order_id
    tell(*order(placer="PL-2"))
    assert journey.study().order_id == first
    tell(*order("CA"))
    second = next(one.id for one in orders(sessions) if one.placer_order_number == "PL-2")
    assert journey.study().order_id == second


def test_two_systems_may_use_the_same_numbers(tell, sessions, tmp_path):
    tell(*order())
    other = sent(msh("ORM^O01", "M99").replace("RIS|HOSP", "OTHER|HOSP"), *order())
    assert b"MSA|AA" in answer(other, Settings(data_dir=tmp_path), sessions)
    assert sorted(one.sender for one in orders(sessions)) == ["OTHER|HOSP", "RIS|HOSP"]


def test_an_order_that_cannot_be_kept_whole_is_not_kept_in_part(tell, sessions):
    """The second order of the message has a control code that is not supported: AR, and nothing was applied."""
    assert tell(*order(), *order("ZZ", accession="A-2", placer="PL-2")[1:]) == "AR"
    assert orders(sessions) == []
