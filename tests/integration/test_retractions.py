"""Messages of a draft that no longer stands are taken back where they arrived, once, and without a word of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hl7
import pytest
from hl7apy.parser import parse_message
from sqlalchemy import select
from werkzeug.wrappers import Response

from config.destination import Destination
from config.errors import LifecycleError
from db import lifecycle
from db.lifecycle.retracting import retract, retractable
from db.models import AuditEvent, Delivery, ResultObject
from db.types import DeliveryState, utcnow
from db.uow import unit_of_work
from dicom_node.duties import DUTIES
from publishing.retractions import build_retraction, retract_due
from ris.receiving import answer
from tests.dashboard_support import Browser, Site, make_site
from tests.fhir_server import FhirServer, fhir_server
from tests.fhir_support import judged_bundle
from tests.hl7_support import line, msh, sent
from tests.integration.test_dashboard_signing import sign
from tests.integration.test_hl7_mllp import ack, ris
from tests.integration.test_rejection_notes import reject
from tests.retraction_support import Ris, deliver, drafted, kept, redrafted, rows, says_nothing, supersede
from tests.signed_support import SENDER, Drafted


@pytest.fixture
def desk() -> Iterator[Ris]:
    running = Ris()

    def behave(caller: Any, message: bytes) -> None:
        running.got.append(message)
        caller.sendall(ack(running.code, str(hl7.parse(message).segment("MSH")[10])))

    with ris(behave) as port:
        running.port = port
        yield running


@pytest.fixture
def ehr() -> Iterator[FhirServer]:
    with fhir_server() as running:
        yield running


@pytest.fixture
def site(tmp_path: Path, database_url: str, desk: Ris, ehr: FhirServer) -> Site:
    return make_site(
        tmp_path,
        database_url,
        destinations=(
            Destination(name="RIS", protocol="mllp", host="127.0.0.1", port=desk.port, drafts=True, pdf=True),
            Destination(name="EHR", protocol="fhir", url=ehr.url, drafts=True),
            Destination(name="QUIET", protocol="mllp", host="127.0.0.1", port=desk.port),
        ),
    )


@pytest.fixture
def browser(site: Site) -> Browser:
    return site.client("radiologist")


def from_scratch(draft: Drafted, browser: Browser) -> None:
    """A reader writes and signs a report after the draft was rejected."""
    browser.submit(f"/studies/{draft.study_id}/review")
    version = draft.site.report(draft.study_id).version
    browser.submit(f"/studies/{draft.study_id}/sections", version=version, findings="Own words.")
    assert sign(draft.site, browser, draft.study_id).status_code == 303


def due(site: Site) -> int:
    return retract_due(site.sessions, site.settings, utcnow())


# --- a draft that a reader rejected ---------------------------------------------------------------------------


@pytest.mark.requirement("REQ-DELIV-6")
def test_a_rejected_draft_is_taken_back_from_the_ris_without_a_word_of_it(site, browser, desk) -> None:
    draft = drafted(site)
    deliver(site)
    assert (desk.statuses(), due(site)) == (["R"], 0)
    reject(draft, browser, "Findings missed", "see the liver of Mrs Halvorsen")
    assert due(site) == 2  # that of the RIS and that of the EHR
    deliver(site)
    assert desk.statuses() == ["R", "X"]
    told, withdrawn = desk.got
    message = parse_message(withdrawn.decode(), find_groups=True)
    assert (message.name, message.version, message.validate()) == ("ORU_R01", "2.5.1", True)
    for name in ("PID", "PV1", "ORC", "TQ1"):
        assert rows(told, name) == rows(withdrawn, name) != []
    (before,), (after,) = rows(told, "OBR"), rows(withdrawn, "OBR")
    assert {at for at, (one, other) in enumerate(zip(before, after, strict=True)) if one != other} == {22, 25}
    assert rows(told, "MSH")[0][2:6] == rows(withdrawn, "MSH")[0][2:6]
    assert rows(told, "MSH")[0][9] != rows(withdrawn, "MSH")[0][9]
    # every observation by its number, type, code and sub-id; the Study as it was; nothing else with a value
    assert [one[:5] for one in rows(told, "OBX")] == [one[:5] for one in rows(withdrawn, "OBX")]
    study, *others = rows(withdrawn, "OBX")
    assert (study[5], study[11]) == (str(draft.datasets[0].StudyInstanceUID), "O")
    assert len(others) == 3  # two sections and the PDF
    assert {(one[5], one[11]) for one in others} == {("", "X")}
    (note,) = rows(withdrawn, "NTE")
    assert note[3] == "The AI draft that was sent before is withdrawn: do not use it. A reader rejected it."
    assert says_nothing(withdrawn)
    assert not says_nothing(told)
    assert b"Mrs" not in withdrawn


@pytest.mark.requirement("REQ-DELIV-6")
def test_a_rejected_draft_is_entered_in_error_in_the_ehr_without_a_word_of_it(site, browser, ehr) -> None:
    draft = drafted(site)
    deliver(site)
    partial, preliminary = ehr.the("DiagnosticReport"), ehr.the("Observation")
    held = ehr.counts()
    assert (partial["status"], preliminary["status"]) == ("partial", "preliminary")
    reject(draft, browser, "Text unusable")
    due(site)
    deliver(site)
    report, finding = ehr.the("DiagnosticReport"), ehr.the("Observation")
    assert (report["id"], report["status"]) == (partial["id"], "entered-in-error")
    assert (finding["id"], finding["status"]) == (preliminary["id"], "entered-in-error")
    assert report["identifier"] == partial["identifier"]
    assert report["subject"] == partial["subject"]
    assert not {"conclusion", "presentedForm", "result", "meta"} & set(report)
    assert ehr.counts() == held  # nothing was added, not even another patient
    (content,) = kept(draft, "RETRACTION_FHIR")
    judged_bundle(json.loads(content))
    assert says_nothing(content)


def test_it_is_taken_back_once_where_it_went_and_on_record(site, browser, desk) -> None:
    draft = drafted(site)
    deliver(site)
    reject(draft, browser)
    assert (due(site), due(site)) == (2, 0)
    deliver(site)
    assert due(site) == 0
    taken = draft.objects("RETRACTION_ORU") + draft.objects("RETRACTION_FHIR")
    with site.sessions() as db:
        owed = db.execute(
            select(Delivery.destination, ResultObject.kind, Delivery.state).join(
                ResultObject, ResultObject.id == Delivery.result_object_id
            ).where(ResultObject.id.in_([one.id for one in taken]))
        ).all()  # fmt: skip
        events = db.scalars(select(AuditEvent).where(AuditEvent.tag == "delivery:rejection_noted")).all()
    delivered = DeliveryState.DELIVERED
    assert sorted(map(tuple, owed)) == [("EHR", "RETRACTION_FHIR", delivered), ("RIS", "RETRACTION_ORU", delivered)]
    assert len(desk.got) == 2
    said = {(event.detail["note"], *event.detail["objects"], *event.detail["destinations"]) for event in events}
    (oru,), (bundle,) = draft.objects("DRAFT_ORU"), draft.objects("DRAFT_FHIR")
    assert said == {
        (taken[0].sop_instance_uid, oru.sop_instance_uid, "RIS"),
        (taken[1].sop_instance_uid, bundle.sop_instance_uid, "EHR"),
    }


def test_the_node_does_it_by_itself() -> None:
    assert retract_due in {duty.run for duty in DUTIES}


def test_what_was_never_sent_is_not_taken_back(site, browser, desk, ehr) -> None:
    draft = drafted(site)
    reject(draft, browser)
    assert (deliver(site), due(site)) == (0, 0)
    assert (desk.got, ehr.held) == ([], {})


def test_what_a_ris_refused_is_not_taken_back(site, browser, desk) -> None:
    desk.code = "AR"
    draft = drafted(site)
    deliver(site)
    desk.code = "AA"
    reject(draft, browser)
    due(site)
    deliver(site)
    assert desk.statuses() == ["R"]


def test_what_arrived_while_its_draft_was_rejected_is_taken_back(site, browser) -> None:
    draft = drafted(site)
    jobs = [draft.claim(), draft.claim()]
    reject(draft, browser)
    assert due(site) == 0
    for job in jobs:
        with unit_of_work(site.sessions, SENDER) as uow:
            lifecycle.delivered(uow, job.delivery_id)
    assert due(site) == 2


def test_made_again_after_a_crash_it_is_the_same(site, browser) -> None:
    draft = drafted(site)
    deliver(site)
    reject(draft, browser)
    with site.sessions() as db:
        lost = {build_retraction(one, site.settings) for one in retractable(db, ["RIS", "EHR"])}
    assert due(site) == 2
    assert {*kept(draft, "RETRACTION_ORU"), *kept(draft, "RETRACTION_FHIR")} == lost


def test_a_message_that_was_changed_on_the_disk_is_not_made_into_another(site, browser, desk) -> None:
    draft = drafted(site)
    deliver(site)
    reject(draft, browser)
    (oru,) = draft.objects("DRAFT_ORU")
    (site.settings.results_dir / oru.path).write_bytes(desk.got[0].replace(b"P-1001", b"P-1002"))
    assert due(site) == 1  # that of the EHR
    assert draft.objects("RETRACTION_ORU") == []


# --- a draft that something else took the place of ------------------------------------------------------------


def test_a_draft_that_later_images_made_outdated_is_taken_back(site, desk, ehr) -> None:
    draft = drafted(site)
    deliver(site)
    supersede(draft)
    assert due(site) == 2
    deliver(site)
    assert desk.statuses() == ["R", "X"]
    assert "Later images" in rows(desk.got[1], "NTE")[0][3]
    assert ehr.the("DiagnosticReport")["status"] == "entered-in-error"
    redrafted(draft)
    deliver(site)
    assert desk.statuses() == ["R", "X", "R"]
    assert ehr.the("DiagnosticReport")["status"] == "partial"
    assert sorted(one["status"] for one in ehr.held["Observation"]) == ["entered-in-error", "preliminary"]
    assert due(site) == 0


def test_the_draft_of_a_corrected_patient_is_taken_back_from_the_one_it_went_to(site, desk, ehr) -> None:
    drafted(site)
    deliver(site)
    corrected = line("PID", f3="P-1001", f5="Roe^Janet", f7="19700102", f8="F")
    assert b"MSA|AA" in answer(sent(msh("ADT^A08"), "EVN||20260304", corrected), site.settings, site.sessions)
    assert due(site) == 2
    deliver(site)
    assert desk.statuses() == ["R", "X"]
    assert rows(desk.got[0], "PID") == rows(desk.got[1], "PID")
    assert len(ehr.held["Patient"]) == 1


def test_where_a_newer_draft_arrived_first_only_what_it_left_is_taken_back(site, desk, ehr) -> None:
    draft = drafted(site)
    deliver(site)
    supersede(draft)
    redrafted(draft)
    assert due(site) == 0  # the newer one is on its way
    deliver(site)
    assert due(site) == 1
    deliver(site)
    assert desk.statuses() == ["R", "R"]
    assert ehr.the("DiagnosticReport")["status"] == "partial"
    by_uid = {one["identifier"][0]["value"]: one["status"] for one in ehr.held["Observation"]}
    assert by_uid[f"urn:oid:{draft.tracking['lung tumor']}"] == "entered-in-error"
    assert sorted(by_uid.values()) == ["entered-in-error", "preliminary"]
    assert due(site) == 0


# --- a report that somebody signed ----------------------------------------------------------------------------


def test_a_report_written_after_the_rejection_comes_after_it(site, browser, desk, ehr) -> None:
    draft = drafted(site)
    deliver(site)
    reject(draft, browser)
    due(site)
    from_scratch(draft, browser)
    deliver(site)
    assert sorted(desk.statuses()) == ["F", "F", "R", "X"]  # who gets no drafts is told of the report and nothing else
    told = [one for one in draft.objects() if one.kind in {"DRAFT_ORU", "RETRACTION_ORU", "REPORT_ORU"}]
    with site.sessions() as db:
        moments = dict(db.execute(select(ResultObject.kind, Delivery.delivered_at).join(
            Delivery, Delivery.result_object_id == ResultObject.id
        ).where(Delivery.destination == "RIS")).all())  # fmt: skip
    assert len(told) == 4
    assert moments["DRAFT_ORU"] < moments["RETRACTION_ORU"] < moments["REPORT_ORU"]
    assert ehr.the("DiagnosticReport")["status"] == "final"
    assert ehr.the("Observation")["status"] == "entered-in-error"
    assert due(site) == 0


def test_a_report_that_was_signed_before_anybody_looked_is_never_taken_back(site, browser, desk, ehr) -> None:
    draft = drafted(site)
    deliver(site)
    reject(draft, browser)
    from_scratch(draft, browser)
    assert due(site) == 0  # the report is on its way
    deliver(site)
    assert due(site) == 1  # the finding in the EHR, which the report does not know
    deliver(site)
    assert "X" not in desk.statuses()
    assert ehr.the("DiagnosticReport")["status"] == "final"
    assert ehr.the("Observation")["status"] == "entered-in-error"
    assert due(site) == 0


def test_a_draft_that_a_report_was_signed_from_is_replaced_not_taken_back(site, browser, desk, ehr) -> None:
    draft = drafted(site)
    deliver(site)
    browser.submit(f"/studies/{draft.study_id}/review")
    draft.decide(browser, lung="accepted")
    assert sign(site, browser, draft.study_id).status_code == 303
    deliver(site)
    assert due(site) == 0
    assert "X" not in desk.statuses()
    assert ehr.the("DiagnosticReport")["status"] == "final"


def test_a_signature_between_looking_and_owing_stops_it(site, browser) -> None:
    draft = drafted(site)
    deliver(site)
    reject(draft, browser)
    with site.sessions() as db:
        seen = retractable(db, ["RIS", "EHR"])
    from_scratch(draft, browser)
    (oru,) = [one for one in seen if one.kind == "DRAFT_ORU"]
    made = lifecycle.NewObject("RETRACTION_ORU", "2.25.1", "", "0" * 64, "x", ("RIS",))
    with pytest.raises(LifecycleError, match="another message"), unit_of_work(site.sessions, SENDER) as uow:
        retract(uow, oru, made)
    assert draft.objects("RETRACTION_ORU") == []


def test_a_report_that_failed_can_be_sent_again_after_the_draft_was_taken_back(site, browser, ehr) -> None:
    draft = drafted(site)
    deliver(site)
    reject(draft, browser)
    from_scratch(draft, browser)
    ehr.refusal = Response("", 422)
    deliver(site)
    ehr.refusal = None
    assert due(site) == 1
    deliver(site)
    assert ehr.the("DiagnosticReport")["status"] == "partial"  # the report is still to come: a person sends it again
    (made,) = draft.objects("REPORT_FHIR")
    failed = site.one(Delivery, result_object_id=made.id)
    assert failed.state is DeliveryState.FAILED
    with unit_of_work(site.sessions, SENDER) as uow:
        lifecycle.resubmit(uow, failed.id)
    deliver(site)
    assert ehr.the("DiagnosticReport")["status"] == "final"


def test_it_is_sent_again_until_the_ris_takes_it_whatever_became_of_the_draft(site, browser, desk) -> None:
    draft = drafted(site)
    deliver(site)
    reject(draft, browser)
    due(site)
    desk.code = "AE"
    deliver(site)
    supersede(draft)
    desk.code = "AA"
    deliver(site, minutes=5)
    assert desk.statuses() == ["R", "X", "X"]
    assert desk.got[1] == desk.got[2]
