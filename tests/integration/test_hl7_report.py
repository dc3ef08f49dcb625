"""The whole way: an order comes in, the patient is corrected, a person signs, and the RIS gets the report by MLLP."""

import hl7
import pydicom
import pytest
from hl7apy.parser import parse_message
from sqlalchemy import select

from config.settings import Destination, Settings
from db import lifecycle
from db.models import Delivery, Study
from db.types import DeliveryState, utcnow
from db.uow import unit_of_work
from dicom_node.delivery import deliver_due
from ris.receiving import answer
from tests.dashboard_support import PASSWORD, ct_study, make_site
from tests.db_support import WORKER, new_draft
from tests.hl7_support import line, msh, sent
from tests.integration.test_hl7_mllp import ack, ris


@pytest.fixture
def desk():
    """A RIS that accepts everything; gives its port and what it got."""
    got: list[bytes] = []

    def behave(caller, message):
        got.append(message)
        caller.sendall(ack("AA", str(hl7.parse(message).segment("MSH")[10])))

    with ris(behave) as port:
        yield port, got


def test_what_was_ordered_is_signed_for_the_corrected_patient_and_told_to_the_ris(desk, tmp_path, sqlite_url):
    port, got = desk
    pacs = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)
    to_ris = Destination(name="ris", protocol="mllp", host="127.0.0.1", port=port, application="RIS", pdf=True)
    site = make_site(tmp_path, sqlite_url, destinations=(pacs, to_ris))
    study_id = site.receive(ct_study(3))
    study = site.one(Study, id=study_id)
    order = sent(
        msh("ORM^O01"),
        line("PID", f3=study.patient_id),
        "ORC|NW|PL-1|FI-1|||||",
        line("OBR", f2="PL-1", f4="CTCH^CT Chest^L", f16="O-1^Order^Olga", f18="ACC-77", f31="^Cough"),
        f"ZDS|{study.study_instance_uid}",
    )
    merge = sent(msh("ADT^A40", "M2"), line("PID", f3="NEW-1", f5="Neu^Nora"), line("MRG", f1=study.patient_id))
    for message in (order, merge):
        assert b"MSA|AA" in answer(message, site.settings, site.sessions)
    claim = site.claimed(study_id)
    with unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.drafted(uow, claim, new_draft(claim, objects=[], findings=[]))
    browser = site.client("radiologist")
    assert browser.submit(f"/studies/{study_id}/review").status_code == 303
    version = site.report(study_id).version
    signed = browser.submit(f"/studies/{study_id}/sign/FINAL", version=version, password=PASSWORD, checked="1")
    assert signed.status_code == 303
    # every object of the signature names the patient as corrected
    objects = [pydicom.dcmread(path) for path in sorted(site.settings.results_dir.rglob("signed/*.dcm"))]
    assert objects
    assert {(ds.PatientID, str(ds.PatientName)) for ds in objects} == {("NEW-1", "Neu^Nora")}
    # and so does the message, which the RIS has and acknowledged
    deliver_due(site.sessions, _only(site.settings, to_ris), utcnow())
    with site.sessions() as session:
        states = dict(session.execute(select(Delivery.destination, Delivery.state)).all())
    assert states["ris"] is DeliveryState.DELIVERED
    (message,) = got
    assert parse_message(message.decode(), find_groups=True).validate()
    fields = {row.split("|")[0]: row.split("|") for row in message.decode().split("\r") if row}
    assert fields["PID"][3] == "NEW-1^^^^MR"
    assert fields["PID"][5].startswith("Neu^Nora")
    assert fields["ORC"][1:6] == ["RE", "PL-1", "FI-1", "", "CM"]
    assert (fields["OBR"][4], fields["OBR"][18], fields["OBR"][25]) == ("CTCH^CT Chest^L", "ACC-77", "F")
    assert fields["OBR"][31] == "^Cough"
    assert fields["OBR"][32] == "radiologist&Lund&Maria"
    assert fields["OBX"][5].startswith("^application^pdf^Base64^JVBERi")  # the last one; "%PDF-"


def _only(settings: Settings, one: Destination) -> Settings:
    return settings.model_copy(update={"destinations": (one,)})
