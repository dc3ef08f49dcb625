"""The pause between a signature and its dispatch: nothing leaves before its end, and a person may stop it."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from config.destination import Destination
from db import lifecycle
from db.report_models import Signature
from db.signing_models import HoldState, SignatureHold
from db.types import DeliveryState, ReportState, Role, utcnow
from db.uow import Actor, unit_of_work
from tests.dashboard_support import Browser, Site, make_site
from tests.integration.test_amendments import amend
from tests.signed_support import LABELS, Drafted, drafted
from tests.signing_support import sign

SENDER = Actor("node", "process")
PACS = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=11119)
RIS = Destination(name="RIS", protocol="mllp", host="127.0.0.1", port=2575)
EHR = Destination(name="EHR", protocol="fhir", url="http://127.0.0.1:8080/fhir")


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, destinations=(PACS, RIS, EHR), review={"hold_s": 60})


@pytest.fixture
def browser(site: Site) -> Browser:
    return site.client("radiologist")


@pytest.fixture
def made(site: Site, browser: Browser) -> Drafted:
    """A study whose draft, with its objects, is in review; every finding accepted."""
    draft = drafted(site)
    assert browser.submit(f"/studies/{draft.study_id}/review").status_code == 303
    draft.decide(browser, **{label.split()[0]: "accepted" for label in LABELS})
    return draft


@pytest.fixture
def signed(site: Site, browser: Browser, made: Drafted) -> Drafted:
    """A study signed as final a moment ago."""
    assert sign(site, browser, made.study_id).status_code == 303
    return made


def due(site: Site, at: datetime) -> lifecycle.DeliveryJob | None:
    """What a sender would take at that moment."""
    with unit_of_work(site.sessions, SENDER) as uow:
        return lifecycle.claim_delivery(uow, at, lease_s=60.0)


def hold_of(site: Site, signature: Signature | None = None) -> SignatureHold:
    found: SignatureHold = site.one(SignatureHold, **({"signature_id": signature.id} if signature else {}))
    return found


def act(site: Site, browser: Browser, study_id: UUID, what: str, **fields: Any) -> int:
    with site.sessions() as db:
        newest = db.query(SignatureHold).order_by(SignatureHold.created_at.desc()).first()
    assert newest is not None
    return browser.submit(f"/studies/{study_id}/dispatch/{what}", hold=str(newest.id), **fields).status_code


def states(draft: Drafted) -> set[str]:
    return set(draft.owed().values())


def texts(owed: Mapping[tuple[str, str], str]) -> set[str]:
    """States of the narrative and the messages, which a later signature says anew."""
    made_by_all = ("_text.dcm", "_RIS.hl7", "_EHR.json")
    return {state for (name, _), state in owed.items() if name.endswith(made_by_all)}


def test_nothing_is_due_before_the_end_of_the_pause_and_everything_after(site: Site, signed: Drafted) -> None:
    end = hold_of(site).until
    signature = site.one(Signature)
    assert end == signature.signed_at + timedelta(seconds=60)
    for share in (0.0, 0.25, 0.5, 0.9, 0.999):
        assert due(site, signature.signed_at + (end - signature.signed_at) * share) is None
    assert states(signed) == {"PENDING"}
    taken = set()
    while job := due(site, end):
        taken.add((job.kind, job.destination))
        with unit_of_work(site.sessions, SENDER) as uow:
            lifecycle.delivered(uow, job.delivery_id)
    # object, message and evidence alike waited, for every destination
    assert {("SIGNED_SR", "PACS"), ("SEG", "PACS"), ("REPORT_ORU", "RIS"), ("REPORT_FHIR", "EHR")} <= taken
    assert states(signed) == {"DELIVERED"}


@pytest.mark.requirement("REQ-SIGN-12")
def test_what_is_stopped_never_leaves_and_the_report_stays_final(site, browser, signed) -> None:
    assert act(site, browser, signed.study_id, "stop", reason="Wrong side in the text") == 303
    assert states(signed) == {"HELD"}
    assert due(site, utcnow() + timedelta(days=400)) is None
    assert site.report(signed.study_id).state is ReportState.FINAL
    for path in ("", "/report"):
        page = browser.get(f"/studies/{signed.study_id}{path}").text
        assert "Not sent: stopped by Maria Lund" in page
        assert "Wrong side in the text" in page
        assert "Send now as it is" in page
        assert f"/studies/{signed.study_id}/correction" in page
    assert site.tags(tag="dispatch:stopped") == ["dispatch:stopped"]
    assert set(site.tags(tag="delivery:stopped")) == {"delivery:stopped"}


def test_what_was_stopped_is_sent_as_it_is_when_somebody_says_so(site, browser, signed) -> None:
    act(site, browser, signed.study_id, "stop", reason="Asking a colleague")
    assert act(site, browser, signed.study_id, "release") == 303
    assert states(signed) == {"PENDING"}
    assert due(site, utcnow()) is not None
    assert act(site, browser, signed.study_id, "release") == 409
    assert act(site, browser, signed.study_id, "stop", reason="Too late now") == 409


def test_send_now_skips_the_rest_of_the_pause(site, browser, signed) -> None:
    assert act(site, browser, signed.study_id, "release") == 303
    assert signed.deliver() == len(signed.owed())
    assert "Acknowledged" in browser.get(f"/studies/{signed.study_id}/dispatch").text
    assert hold_of(site).state is HoldState.RELEASED


def test_a_correction_goes_in_the_place_of_what_was_stopped(site, browser, signed) -> None:
    act(site, browser, signed.study_id, "stop", reason="Wrong side in the text")
    first = signed.owed()
    assert amend(browser, signed.study_id, "correction").status_code == 303
    after = signed.owed()
    assert texts({key: after[key] for key in first}) == {"WITHDRAWN"}
    evidence = {key: state for key, state in after.items() if key[0].startswith("seg_")}
    assert set(evidence.values()) == {"PENDING"}  # the correction does not make it anew: it goes along
    old, new = (one.state for one in holds(site))
    assert (old, new) == (HoldState.REPLACED, HoldState.WAITING)
    assert due(site, utcnow()) is None
    kinds = set()
    while job := due(site, utcnow() + timedelta(seconds=61)):
        kinds.add(job.kind)
        with unit_of_work(site.sessions, SENDER) as uow:
            lifecycle.delivered(uow, job.delivery_id)
    assert {"SIGNED_SR", "SEG", "REPORT_ORU", "REPORT_FHIR"} <= kinds
    assert site.report(signed.study_id).state is ReportState.CORRECTED


def holds(site: Site) -> list[SignatureHold]:
    with site.sessions() as db:
        return list(db.query(SignatureHold).order_by(SignatureHold.created_at))


def test_an_addendum_waits_for_the_report_it_adds_to(site, browser, signed) -> None:
    act(site, browser, signed.study_id, "stop", reason="Wrong side in the text")
    answer = amend(browser, signed.study_id)
    assert answer.status_code == 409
    assert "send it as it is or correct it first" in answer.text
    assert "Compared with the CT of 2024: new.</textarea>" in answer.text
    assert site.report(signed.study_id).state is ReportState.FINAL


def test_what_is_on_its_way_cannot_be_stopped(site, browser, signed) -> None:
    assert due(site, hold_of(site).until) is not None  # a sender whose clock is ahead
    assert act(site, browser, signed.study_id, "stop", reason="Too late now") == 409
    assert "HELD" not in states(signed)


@pytest.mark.requirement("REQ-SIGN-12")
@pytest.mark.parametrize("reason", ["", "  no ", "x" * 301])
def test_a_stop_says_why(site, browser, signed, reason) -> None:
    assert act(site, browser, signed.study_id, "stop", reason=reason) == 400
    assert states(signed) == {"PENDING"}


def test_a_hold_of_another_study_or_of_none_is_not_found(site, browser, signed) -> None:
    other = drafted(site)
    path = f"/studies/{other.study_id}/dispatch"
    for hold in (str(hold_of(site).id), "", "x", "0" * 36):
        assert browser.submit(f"{path}/stop", hold=hold, reason="Wrong patient").status_code == 404
        assert browser.submit(f"/studies/{signed.study_id}/dispatch/release", hold=f"{hold}1").status_code == 404
    assert browser.get(path).status_code == 404
    assert states(signed) == {"PENDING"}


def test_a_resident_stops_only_what_the_resident_signed(site, browser, signed) -> None:
    resident = site.client("resident")
    assert act(site, resident, signed.study_id, "stop", reason="I would rather not") == 403
    assert "Stop sending" not in resident.get(f"/studies/{signed.study_id}/report").text
    own = drafted(site)
    resident.submit(f"/studies/{own.study_id}/review")
    own.decide(resident, **{label.split()[0]: "accepted" for label in LABELS})
    assert sign(site, resident, own.study_id, "PRELIMINARY").status_code == 303
    assert act(site, resident, own.study_id, "stop", reason="One more look") == 303
    # the final report goes in its place
    assert sign(site, browser, own.study_id).status_code == 303
    preliminary = [state for (name, _), state in own.owed().items() if "findings" not in name]
    assert "HELD" not in preliminary
    assert "WITHDRAWN" in preliminary


def test_a_stopped_delivery_is_not_sent_again_by_an_administrator(site, browser, signed) -> None:
    act(site, browser, signed.study_id, "stop", reason="Wrong side in the text")
    with site.sessions() as db:
        delivery_id = db.query(lifecycle.deliveries.Delivery.id).filter_by(state=DeliveryState.HELD).first()[0]
    admin = site.client("admin")
    assert admin.submit(f"/problems/deliveries/{delivery_id}/again").status_code in {404, 409}
    assert states(signed) == {"HELD"}


def test_without_a_pause_what_is_signed_is_due_at_once(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url, destinations=(PACS,))
    browser = site.client("lead")
    draft = drafted(site)
    browser.submit(f"/studies/{draft.study_id}/review")
    draft.decide(browser, **{label.split()[0]: "accepted" for label in LABELS})
    assert sign(site, browser, draft.study_id).status_code == 303
    assert holds(site) == []
    assert due(site, utcnow()) is not None
    assert site.one(Signature).user_id == site.one(lifecycle.review.UserAccount, login=Role.LEAD.value).id
