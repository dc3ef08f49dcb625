"""Questions Q8 to Q14 on a history whose answers are known from its script (tests.audit_history_support)."""

import importlib
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa
from scipy.stats import binomtest
from sqlalchemy import Engine, select

from config.errors import RefusedInputError
from db.audit import AuditTag
from db.models import Base, Instance, Study
from db.queries.audit import derived
from db.queries.audit.changes import group_of
from db.queries.audit.subgroups import wilson
from tests.audit_history_support import WEIGHTS, History, each_engine, make_history


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    yield from each_engine(request, tmp_path_factory.mktemp("history"))


@pytest.fixture(scope="module")
def history(engine: Engine) -> History:
    return make_history(engine)


# --- Q8 ------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-AUDIT-23")
def test_critical_results_say_who_was_told_and_what_is_missing(history):
    d, c = history.rows("Q8")
    assert history.letters([d, c]) == ["D", "C"]
    assert (c["state"], c["told"], c["told_role"], c["means"]) == (
        "COMMUNICATED", "Dr Berg", "Emergency physician", "phone",
    )  # fmt: skip
    assert (c["answered_by"], c["told_by"]) == ("Dr reader", "Dr reader")
    assert (c["read_back"], c["complete"], c["missing"], c["attempts"], c["escalations"]) == (True, True, "", 1, 0)
    assert c["opened_at"] <= c["answered_at"]
    assert c["told_at"] is not None
    assert (d["state"], d["told"], d["told_at"], d["escalations"]) == ("SUSPECTED", "", None, 1)
    assert (d["complete"], d["missing"]) == (False, "told, when, how, read back")
    assert d["minutes_to_answer"] is None


@pytest.mark.parametrize(
    ("which", "letters"),
    [("open", "D"), ("escalated", "D"), ("incomplete", "D"), ("communicated", "C"), ("dismissed", "")],
)
def test_critical_results_are_chosen_by_what_became_of_them(history, which, letters):
    assert history.letters(history.rows("Q8", which=which)) == list(letters)


def test_critical_results_are_counted_on_the_first_page(history):
    facts = history.facts("Q8")
    assert list(facts.values()) == [2, 1, 1, 1]
    assert history.ask("Q8", limit=1, cursor=history.ask("Q8", limit=1).next_cursor).facts == []


def test_critical_results_of_one_study_are_asked_for_by_its_accession_number(history):
    assert history.letters(history.rows("Q8", study="C-100")) == ["C"]
    assert history.letters(history.rows("Q8", study=str(history.studies["D"].study_id))) == ["D"]
    with pytest.raises(RefusedInputError, match="study: there is none"):
        history.rows("Q8", study="Z-100' OR '1'='1")


# --- Q9 ------------------------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-AUDIT-23")
def test_every_result_object_is_listed_once_for_each_destination_or_as_owed_to_nobody(history):
    rows = history.rows("Q9")
    with history.sessions() as session:
        objects = session.execute(sa.text("SELECT count(*) FROM result_object")).scalar_one()
        owed = session.execute(sa.text("SELECT count(*) FROM delivery")).scalar_one()
        unowed = session.execute(
            sa.text("SELECT count(*) FROM result_object r WHERE NOT EXISTS "
                    "(SELECT 1 FROM delivery d WHERE d.result_object_id = r.id)")
        ).scalar_one()  # fmt: skip
    assert len({one["sop_instance_uid"] for one in rows}) == objects
    assert len(rows) == owed + unowed
    nobodys = sorted(one["kind"] for one in rows if one["state"] == "OWED TO NOBODY")
    assert nobodys == ["KEY_IMAGES", "SIGNED_SR", "SIGNED_SR"]  # amendments were signed for no destination


def test_a_delivery_says_what_the_destination_answered(history):
    (stored,) = history.rows("Q9", commitment="COMMITTED")
    assert history.letters([stored]) == ["A"]
    assert (stored["state"], stored["attempts"], stored["made_by"]) == ("DELIVERED", 1, "signature")
    assert stored["delivered_at"] <= stored["committed_at"]
    assert stored["transaction_uid"].startswith("2.25.")
    (given_up,) = history.rows("Q9", state="FAILED")
    assert history.letters([given_up]) == ["B"]
    assert (given_up["last_error"], given_up["delivered_at"]) == ("A700 out of resources", None)
    assert history.facts("Q9")["given up"] == 1


def test_deliveries_are_chosen_by_destination_and_study(history):
    assert history.rows("Q9", destination="elsewhere") == []
    assert set(history.letters(history.rows("Q9", study="B-100"))) == {"B"}


# --- Q10 -----------------------------------------------------------------------------------------------------


def _cells(rows, group):
    return {
        (one["label"], one["group"]): (one["tp"], one["fp"], one["fn"], one["tn"])
        for one in rows if group in {None, one["group"]}
    }  # fmt: skip


@pytest.mark.requirement("REQ-AUDIT-23")
def test_agreement_is_divided_by_sex_age_scanner_and_site(history):
    # signed: A (F, 60-69, GE, SCANNER) agrees; B (M, 40-49, Siemens, SITE2) not; F (M, 40-49, Siemens, SCANNER) agrees
    # D was refused as a whole: nobody judged its findings
    assert _cells(history.rows("Q10", by="all"), None) == {
        ("effusion", "not stated"): (0, 0, 1, 2), ("nodule", "not stated"): (2, 1, 0, 0),
    }  # fmt: skip
    assert _cells(history.rows("Q10", by="sex"), None) == {
        ("effusion", "F"): (0, 0, 0, 1), ("effusion", "M"): (0, 0, 1, 1),
        ("nodule", "F"): (1, 0, 0, 0), ("nodule", "M"): (1, 1, 0, 0),
    }  # fmt: skip
    assert _cells(history.rows("Q10", by="age_group", label="nodule"), None) == {
        ("nodule", "40-49"): (1, 1, 0, 0), ("nodule", "60-69"): (1, 0, 0, 0),
    }  # fmt: skip
    assert _cells(history.rows("Q10", by="scanner", label="nodule"), None) == {
        ("nodule", "GE Revolution"): (1, 0, 0, 0), ("nodule", "Siemens Force"): (1, 1, 0, 0),
    }  # fmt: skip
    assert _cells(history.rows("Q10", by="site", label="effusion"), None) == {
        ("effusion", "SCANNER"): (0, 0, 0, 2), ("effusion", "SITE2"): (0, 0, 1, 0),
    }  # fmt: skip


def test_shares_have_denominators_and_the_interval_of_wilson(history):
    (nodule,) = history.rows("Q10", by="all", label="nodule")
    assert (nodule["sensitivity"], nodule["sensitivity_of"]) == (1.0, 2)
    assert (nodule["ppv"], nodule["ppv_of"]) == (0.6667, 3)
    assert (nodule["npv"], nodule["npv_95"], nodule["npv_of"]) == (None, "", 0)
    assert nodule["enough"] is False
    judged = binomtest(2, 3).proportion_ci(method="wilson")
    assert nodule["ppv_95"] == f"{judged.low:.4f} to {judged.high:.4f}"


@pytest.mark.parametrize(("part", "whole"), [(0, 1), (1, 1), (5, 10), (97, 100), (1, 100_000)])
def test_intervals_are_those_scipy_computes(part, whole):
    judged = binomtest(part, whole).proportion_ci(method="wilson")
    assert wilson(part, whole) == pytest.approx((judged.low, judged.high), abs=1e-12)


def test_what_was_decided_before_there_were_counts_is_counted_by_the_migration_alike(history):
    migration = importlib.import_module("migrations.versions.0031_audit_timelines")
    table = Base.metadata.tables["performance_tally"]
    engine = history.sessions.kw["bind"]
    with engine.connect() as connection, connection.begin() as transaction:
        kept = sorted(tuple(row) for row in connection.execute(sa.select(table)))
        connection.execute(sa.delete(table))
        connection.execute(sa.text(migration.backfill(engine.dialect.name)))
        made = sorted(tuple(row) for row in connection.execute(sa.select(table)))
        transaction.rollback()
    assert made == kept != []


def test_agreement_is_of_the_days_and_the_model_asked_for(history):
    assert history.rows("Q10", model="demo-vlm 9.9") == []
    assert history.rows("Q10", since="2001-01-01", until="2001-12-31") == []
    assert len(history.rows("Q10", by="sex", model="demo-vlm 1.0")) == 4


# --- Q11 -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-AUDIT-23")
def test_changes_say_before_and_after_why_and_who_agreed(history):
    rows = history.rows("Q11")
    roles = [one for one in rows if one["tag"] == "user:role_changed"]
    assert [(one["before"], one["after"]) for one in roles] == [
        ("resident", "radiologist"),
        ("radiologist", "resident"),
    ]
    assert {(one["author"], one["object"]) for one in roles} == {("root", "second")}
    (approved,) = [one for one in rows if one["tag"] == "model:switch_approved"]
    assert (approved["author"], approved["second"], approved["reason"]) == ("alice", "bob", "Agreed after the trial")
    (proposed,) = [one for one in rows if one["tag"] == "model:switch_proposed"]
    assert (proposed["author"], proposed["reason"], proposed["object"]) == ("alice", "Better on nodules", "demo-vlm")


@pytest.mark.parametrize(
    ("what", "tags"),
    [
        ("people", {"user:role_changed"}),
        ("peers", {"peer:added", "peer:removed"}),
        ("models", {"licence:accepted", "model:imported", "model:switch_proposed", "model:verified",
                    "model:switch_approved", "model:activated"}),
        ("wording", set()),
    ],
)  # fmt: skip
def test_changes_are_chosen_by_what_they_change(history, what, tags):
    assert {one["tag"] for one in history.rows("Q11", what=what)} == tags


def test_changes_come_newest_first_and_each_once(history):
    numbers = [one["seq"] for one in history.rows("Q11")]
    assert numbers == sorted(set(numbers), reverse=True)
    assert {one["author"] for one in history.rows("Q11", actor="root")} == {"root"}


def test_no_act_that_changes_what_is_in_force_is_left_out_of_the_changes():
    changing = {tag for tag in AuditTag if group_of(tag)}
    assert {AuditTag.USER_ROLE_CHANGED, AuditTag.CONFIG_CHANGED, AuditTag.TOKEN_REVOKED, AuditTag.STUDY_HOLD_LIFTED,
            AuditTag.WORDING_RETIRED, AuditTag.QUEUE_PAUSED, AuditTag.MODEL_RETIRED,
            AuditTag.AUDIT_KEY_ROTATED} <= changing  # fmt: skip
    assert not {AuditTag.USER_LOGIN, AuditTag.IMAGES_VIEWED, AuditTag.REPORT_EDITED, AuditTag.MODEL_LOADED} & changing


# --- Q12 -----------------------------------------------------------------------------------------------------

# tables that hold nothing of one Study, or nothing that can be found by it
_NOT_OF_A_STUDY = {
    "api_token", "destination_test", "disk_measure", "kept_list", "licence_acceptance", "macro", "model_package",
    "model_switch", "model_weights", "passkey", "peer", "performance_tally", "queue_switch", "report_template",
    "user_account", "worker_presence", "workitem_subscription",
    "commitment_request",  # a peer's question, by SOP Instance UIDs of many Studies
    "outbox_message",  # ids only, for seconds
}  # fmt: skip


def test_every_table_that_refers_to_a_study_is_listed():
    listed = {one.table.name for one in derived.sources()}
    named = {"study_id", "study_instance_uid", "draft_id", "report_id", "reading_id", "held_id"}
    speaking = {table.name for table in Base.metadata.tables.values() if named & set(table.columns.keys())}
    assert speaking <= listed
    rest = {name for name in set(Base.metadata.tables) - listed if not name.startswith("audit_")}
    assert rest <= _NOT_OF_A_STUDY  # a new table: does it hold something of a Study?


@pytest.mark.requirement("REQ-AUDIT-23")
def test_everything_of_one_study_is_listed_and_nothing_of_another(history):
    study = history.studies["A"]
    rows = history.rows("Q12", study="A-100")
    keys = [(one["table"], one["key"]) for one in rows]
    assert len(keys) == len(set(keys))
    counts = {name: sum(table == name for table, _ in keys) for name, _ in keys}
    known = {
        "study": 1, "series": 1, "instance": 2, "reading": 1, "draft": 1, "draft_model": 2, "finding": 2, "evidence": 1,
        "report": 1, "signature": 2, "safety_check": 2, "amendment": 1, "image_view": 1, "break_glass": 1,
        "draft_outcome": 1, "result_object": 5, "delivery": 3,
    }  # fmt: skip
    assert {name: counts.get(name, 0) for name in known} == known
    with history.sessions() as session:
        for table, column in (("audit_event", "study_id"), ("audit_private", "study_id"), ("report_revision", None)):
            of = f"WHERE {column} = :study" if column else (
                "WHERE report_id IN (SELECT id FROM report WHERE study_id = :study)"
            )  # fmt: skip
            key = study.study_id if session.get_bind().dialect.name == "postgresql" else study.study_id.hex
            number = session.execute(sa.text(f"SELECT count(*) FROM {table} {of}"), {"study": key}).scalar_one()
            assert counts.get(table, 0) == number, table
        hashes = set(session.scalars(select(Instance.sha256).where(Instance.study_id == study.study_id)))
    assert {one["sha256"] for one in rows if one["table"] == "instance"} == hashes
    assert history.ask("Q12", study="A-100").study_id == study.study_id
    assert history.facts("Q12", study="A-100") == counts


def test_an_accession_number_of_several_studies_names_none_of_them(history):
    with history.sessions() as session:
        one = session.get_one(Study, history.studies["G"].study_id)
        one.accession_number = "F-100"
        session.flush()
        with pytest.raises(RefusedInputError, match="2 studies have this number"):
            derived.one_study(session, "F-100")


# --- Q13 -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-AUDIT-24")
def test_the_recall_list_says_what_became_of_each_draft_and_who_saw_it(history):
    rows = history.rows("Q13", package="demo-vlm", version="1.0")
    became = dict(zip(history.letters(rows), rows, strict=True))
    assert list(became) == ["F", "C", "B", "A"]
    assert {letter: one["became"] for letter, one in became.items()} == {
        "A": "signed", "B": "signed", "C": "unsigned", "F": "signed",
    }  # fmt: skip
    assert {letter: one["viewers"] for letter, one in became.items()} == {
        "A": "reader", "B": "reader", "C": "second", "F": "reader",
    }  # fmt: skip
    assert became["A"]["delivered_to"] == "pacs"
    assert became["C"]["delivered_to"] == ""
    assert became["C"]["owed_to"] == "pacs"
    assert became["A"]["signed_by"] == "Dr reader (final), Dr second (addended)"
    assert history.facts("Q13", package="demo-vlm", version="1.0") == {"drafts": 4, "reports to be read again": 1}


def test_the_recall_list_is_narrowed_to_what_has_to_be_read_again(history):
    assert history.letters(history.rows("Q13", package="demo-vlm", which="unsigned")) == ["E", "D", "C"]
    assert history.letters(history.rows("Q13", package="demo-vlm", which="signed")) == ["F", "B", "A"]
    second = history.rows("Q13", package="demo-vlm", version="2.0")
    assert {letter: one["became"] for letter, one in zip(history.letters(second), second, strict=True)} == {
        "D": "refused: rejected", "E": "unsigned", "G": "superseded",
    }  # fmt: skip


def test_the_recall_list_is_found_by_the_hash_of_the_weights(history):
    assert history.letters(history.rows("Q13", weights=WEIGHTS["2.0"].upper())) == ["G", "E", "D"]
    assert history.rows("Q13", package="demo-vlm", until="2001-01-01") == []
    with pytest.raises(RefusedInputError, match="package: name"):
        history.rows("Q13")


# --- Q14 -----------------------------------------------------------------------------------------------------


@pytest.mark.requirement("REQ-AUDIT-23")
def test_amendments_after_an_assisted_signature_say_what_the_draft_had_said(history):
    corrected, added = history.rows("Q14")
    assert history.letters([corrected, added]) == ["B", "A"]
    assert (added["kind"], added["amended_by"], added["final_by"]) == ("ADDENDED", "Dr second", "Dr reader")
    assert added["text"] == "A fracture of the seventh rib was overlooked."
    assert (added["present_kept"], added["absent_kept"], added["model"]) == ("nodule", "effusion", "demo-vlm 1.0")
    assert (corrected["kind"], corrected["text"]) == ("CORRECTED", "Wrong side.")
    assert (corrected["present_refused"], corrected["absent_refused"]) == ("nodule", "effusion")
    assert 0 <= added["days_between"] < 0.1
    assert isinstance(added["final_at"], datetime)
    assert history.facts("Q14") == {"amendments of AI-assisted reports": 2}


def test_amendments_are_chosen_by_kind_and_time(history):
    assert history.letters(history.rows("Q14", kind="ADDENDED")) == ["A"]
    later = (datetime.now().astimezone() + timedelta(days=1)).isoformat()
    much_later = (datetime.now().astimezone() + timedelta(days=2)).isoformat()
    assert history.rows("Q14", since=later, until=much_later) == []
