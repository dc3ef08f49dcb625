"""What an auditor can search AuditEvents by, and what a resource says of emergencies and people."""

import json
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

from db.audit import AuditTag
from db.models import AuditEvent
from db.uow import Actor, unit_of_work
from tests.dashboard_support import Site, ct_study, make_site
from tests.fhir_support import judged

FHIR = "/fhir/AuditEvent"


@pytest.fixture
def any_site(tmp_path: Path, database_url: str) -> Site:
    return make_site(tmp_path, database_url, web={"dicomweb": False})


def known_history(site: Site) -> dict[str, Any]:
    """Two patients with a study each, and acts of which the answers are known."""
    one = site.drafted(ct_study(2, PatientID="P-1", AccessionNumber="A-1"))
    two = site.drafted(ct_study(2, PatientID="P-2", AccessionNumber="A-2"))
    user_id = uuid4()
    reader = Actor("reader", "person", user_id, role="radiologist", address="10.9.8.7")
    with unit_of_work(site.sessions, reader) as uow:
        for _ in range(3):
            uow.audit(AuditTag.IMAGES_VIEWED, study_id=one)
        uow.audit(AuditTag.IMAGES_VIEWED, study_id=two, detail={"break_glass": "g-1"})
        uow.audit(AuditTag.ACCESS_REFUSED, outcome="failure", study_id=two, detail={"reason": "role"})
        uow.audit(AuditTag.USER_LOCKED_OUT, outcome="failure", object_type="user", object_id="reader")
    return {"one": one, "two": two, "user": user_id}


def rows(site: Site) -> list[AuditEvent]:
    with site.sessions() as session:
        return list(session.scalars(select(AuditEvent).order_by(AuditEvent.seq)))


@pytest.mark.requirement("REQ-AUDIT-7")
def test_events_are_found_by_patient_agent_type_action_outcome_and_date(any_site: Site) -> None:
    site = any_site
    made = known_history(site)
    browser = site.client("auditor")

    def tags(query: str) -> Counter[str]:
        answer = browser.get(f"{FHIR}?_count=1000&{query}")
        assert answer.status_code == 200, answer.text
        bundle = json.loads(answer.data)
        judged(bundle)
        return Counter(one["resource"]["subtype"][0]["code"] for one in bundle.get("entry", ()))

    of_reader = Counter({"images:viewed": 4, "access:refused": 1, "user:locked_out": 1})
    assert tags("agent.identifier=reader") == of_reader
    assert tags(f"altid={made['user']}") == of_reader
    assert tags("agent.identifier=reader&type=110103") == Counter({"images:viewed": 4})
    assert tags("agent.identifier=reader&subtype=access:refused") == Counter({"access:refused": 1})
    assert tags("agent.identifier=reader&subtype=110132") == Counter({"access:refused": 1})
    assert tags("agent.identifier=reader&action=R") == Counter({"images:viewed": 4})
    assert tags("agent.identifier=reader&outcome=0") == Counter({"images:viewed": 4})
    assert tags("agent.identifier=reader&outcome=4") == Counter({"access:refused": 1})
    assert tags("agent.identifier=reader&outcome=12") == Counter({"user:locked_out": 1})
    assert tags("agent.identifier=reader&outcome=8") == Counter()
    assert tags("agent.identifier=reader&date=lt2020-01-01") == Counter()
    assert tags("agent.identifier=reader&date=ge2020-01-01") == of_reader
    both = Counter({"images:viewed": 1, "access:refused": 1})
    for patient in ("patient.identifier=P-2", f"patient=Patient/{made['two']}", f"entity=ImagingStudy/{made['two']}"):
        assert tags(f"agent.identifier=reader&{patient}") == both, patient
    assert tags(f"agent.identifier=reader&patient.identifier=P-1&patient=Patient/{made['two']}") == Counter()
    assert tags("patient.identifier=P-3") == Counter()
    for bad in ("patient=1", "altid=me", "outcome=1", "agent.identifier=", "type=1&type=2", "agent-name=reader"):
        assert browser.get(f"{FHIR}?{bad}").status_code == 400, bad


def test_a_found_event_says_who_in_which_role_from_where_and_why(any_site: Site) -> None:
    site = any_site
    made = known_history(site)
    answer = site.client("auditor").get(f"{FHIR}?agent.identifier=reader&patient.identifier=P-2&type=110103")
    (found,) = [one["resource"] for one in json.loads(answer.data)["entry"]]
    agent = found["agent"][0]
    assert agent["role"][0]["text"] == "radiologist"
    assert agent["network"] == {"address": "10.9.8.7", "type": "2"}
    assert agent["altId"] == str(made["user"])
    assert found["purposeOfEvent"][0]["coding"][0]["code"] == "BTG"
    patients = [one for one in found["entity"] if one.get("role", {}).get("code") == "1"]
    assert [one["what"]["identifier"]["value"] for one in patients] == ["P-2"]
    assert found["entity"][0]["what"]["reference"] == f"ImagingStudy/{made['two']}"


def test_pages_follow_each_other_by_number_and_every_look_is_an_event(any_site: Site) -> None:
    site = any_site
    known_history(site)
    browser, path, seen = site.client("auditor"), f"{FHIR}?agent.identifier=reader&_count=2", []
    looks = sum(one.tag == "audit:viewed" for one in rows(site))
    pages = 0
    while path:
        bundle = json.loads(browser.get(path).data)
        seen += [int(one["resource"]["id"]) for one in bundle.get("entry", ())]
        path = "".join(one["url"].partition("localhost")[2] for one in bundle["link"] if one["relation"] == "next")
        pages += 1
    assert seen == [one.seq for one in rows(site) if one.actor == "reader"]
    assert pages == 3
    assert sum(one.tag == "audit:viewed" for one in rows(site)) == looks + pages
