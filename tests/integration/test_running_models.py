"""Models: what workers say they draft with, and a switch that takes two people."""

import re
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import update

from config.settings import Settings
from db import packages
from db.audit import AuditTag
from db.lifecycle import model_switching
from db.models import AuditEvent
from db.package_models import Package
from db.packages import NewPackage, accept_licence, add_package, text_sha256
from db.report_models import UserAccount
from db.running_models import ModelSwitch, WorkerPresence
from db.types import PackageKind, PackageState, Role, SwitchState, utcnow
from db.uow import unit_of_work
from tests.dashboard_support import NODE, Site, ct_study, make_site
from tests.node_support import rows
from worker.presence import Presence, describe, process_name, verify_switches


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def stored(site: Site, version: str = "1.0", *, name: str = "VISTA3D", manifest: str = "") -> UUID:
    """A package of the store, its licence accepted."""
    digest = manifest or version.encode().hex().ljust(64, "0")
    with unit_of_work(site.sessions, NODE) as uow:
        accept_licence(uow, package=name, licence="NVIDIA", text="the text")
        new = NewPackage(
            kind=PackageKind.EXPERT,
            name=name,
            version=version,
            revision="abc",
            folder=f"{name.lower()}-{version}",
            manifest_sha256=digest,
            licence="NVIDIA",
            licence_sha256=text_sha256("the text"),
            research_only=False,
            demonstration=False,
        )
        return add_package(uow, new, AuditTag.MODEL_IMPORTED, source="a test")


def state(site: Site, package_id: UUID) -> PackageState:
    found: PackageState = site.one(Package, id=package_id).state
    return found


def waiting(site: Site) -> ModelSwitch:
    found: ModelSwitch = site.one(ModelSwitch, state=SwitchState.PROPOSED)
    return found


def seen_good(site: Site) -> None:
    with unit_of_work(site.sessions, NODE) as uow:
        model_switching.verified(uow, waiting(site).id, [])


@pytest.mark.requirement("REQ-MODEL-3")
def test_one_proposes_and_another_approves_in_one_transaction(site: Site) -> None:
    package_id = stored(site)
    admin, lead = site.client("admin"), site.client("lead")
    assert admin.submit(f"/models/{package_id}/propose", act="activate", reason=" ").status_code == 400
    admin.submit(f"/models/{package_id}/propose", act="activate", reason="passed the regression set")
    assert admin.submit(f"/models/{package_id}/propose", act="retire", reason="x").status_code == 409
    switch = waiting(site)
    assert lead.submit(f"/models/switches/{switch.id}/decide", verdict="approve").status_code == 409  # not compared
    seen_good(site)
    assert admin.submit(f"/models/switches/{switch.id}/decide", verdict="approve").status_code == 403
    assert "passed the regression set" in lead.get("/models").text
    assert lead.submit(f"/models/switches/{switch.id}/decide", verdict="approve", answer="seen").status_code == 303
    assert state(site, package_id) is PackageState.ACTIVE
    event = site.one(AuditEvent, tag="model:switch_approved")
    assert (event.actor, event.detail["proposed_by"], event.detail["answer"]) == ("lead", "admin", "seen")
    assert site.tags(object_type="model")[-3:] == ["model:verified", "model:switch_approved", "model:activated"]
    assert lead.submit(f"/models/switches/{switch.id}/decide", verdict="approve").status_code == 409


@pytest.mark.requirement("REQ-MODEL-3")
def test_nobody_approves_their_own_proposal_whatever_their_role_becomes(site: Site) -> None:
    package_id = stored(site)
    admin = site.client("admin")
    admin.submit(f"/models/{package_id}/propose", act="activate", reason="why not")
    seen_good(site)
    with unit_of_work(site.sessions, NODE) as uow:
        uow.session.execute(update(UserAccount).where(UserAccount.login == "admin").values(role=Role.LEAD))
    again = site.client("admin")
    answer = again.submit(f"/models/switches/{waiting(site).id}/decide", verdict="approve")
    assert answer.status_code == 403
    assert "it takes a second person" in answer.text
    assert state(site, package_id) is PackageState.IMPORTED


@pytest.mark.requirement("REQ-MODEL-3")
def test_altered_files_are_never_approved(site: Site) -> None:
    """A worker compares them; here the folder is not even there."""
    package_id = stored(site)
    site.client("admin").submit(f"/models/{package_id}/propose", act="activate", reason="new")
    assert verify_switches(site.sessions, site.settings) == 1
    assert verify_switches(site.sessions, site.settings) == 0
    lead = site.client("lead")
    answer = lead.submit(f"/models/switches/{waiting(site).id}/decide", verdict="approve")
    assert answer.status_code == 409
    assert "its files are not what was recorded" in answer.text
    assert "not as recorded" in lead.get("/models").text
    assert site.tags(tag="model:verified", outcome="failure") == ["model:verified"]


def test_decline_withdraw_and_expiry_leave_the_package_alone(site: Site) -> None:
    package_id = stored(site)
    admin, lead = site.client("admin"), site.client("lead")
    for ending in ("decline", "withdraw", "expire"):
        admin.submit(f"/models/{package_id}/propose", act="activate", reason=ending)
        switch = waiting(site)
        if ending == "decline":
            assert lead.submit(f"/models/switches/{switch.id}/decide", verdict="decline").status_code == 400
            lead.submit(f"/models/switches/{switch.id}/decide", verdict="decline", answer="not enough cases")
        elif ending == "withdraw":
            assert lead.submit(f"/models/switches/{switch.id}/withdraw").status_code == 403
            admin.submit(f"/models/switches/{switch.id}/withdraw")
        else:
            seen_good(site)
            with unit_of_work(site.sessions, NODE) as uow:
                uow.session.execute(update(ModelSwitch).values(expires_at=utcnow() - timedelta(seconds=1)))
            assert lead.submit(f"/models/switches/{switch.id}/decide", verdict="approve").status_code == 409
            verify_switches(site.sessions, site.settings)
    found = sorted(one.state.value for one in rows(site.sessions, ModelSwitch))
    assert found == ["DECLINED", "EXPIRED", "WITHDRAWN"]
    assert state(site, package_id) is PackageState.IMPORTED
    page = lead.get("/models").text
    assert "not enough cases" in page


@pytest.mark.requirement("REQ-MODEL-6")
def test_the_recall_list_names_unsigned_reports_of_a_retired_version(site: Site) -> None:
    package_id = stored(site, "0.1.0-demo")
    site.drafted(ct_study(2))  # VISTA3D 0.1.0-demo gave to it
    with unit_of_work(site.sessions, NODE) as uow:
        packages.activate(uow, package_id)
    site.client("admin").submit(f"/models/{package_id}/propose", act="retire", reason="recall", fall_back="yes")
    lead = site.client("lead")
    page = lead.get("/models").text
    assert "1 reports that are not final rest on this version" in page
    assert "ACC-1001" in page
    assert "Halvorsen" not in page
    lead.submit(f"/models/switches/{waiting(site).id}/decide", verdict="approve")
    assert state(site, package_id) is PackageState.RETIRED
    assert "1 in 90 days" in lead.get("/models").text


def test_a_worker_says_what_it_has_and_what_is_loaded(site: Site) -> None:
    cards = {card["name"]: card for card in describe(site.sessions, Settings(), warm={"CXR"})}
    assert cards["CXR"]["is_warm"]
    assert not cards["VISTA3D"]["is_warm"]
    assert all(re.fullmatch(r"[0-9a-f]{64}", one) for one in cards["CXR"]["weights_sha256"].values())
    assert cards["CXR"]["intended_use"]
    assert cards["CXR"]["size_bytes"] > 100_000
    assert cards["ct-torso"]["expert"] == "VISTA3D"
    presence = Presence(site.sessions, Settings(data_dir=site.settings.data_dir), lambda: {"CXR"})
    for _ in range(2):
        presence.tell(utcnow())
    assert [one.owner for one in rows(site.sessions, WorkerPresence)] == [process_name()]
    page = site.client("admin").get("/models").text
    assert "in 1 of 1" in page
    assert "cannot be opened" in page  # the demonstration model was not built in this folder
    presence.stop()
    assert rows(site.sessions, WorkerPresence) == []
    assert "No worker is running" in site.client("lead").get("/models").text


def test_others_do_not_see_models(site: Site) -> None:
    for role in ("radiologist", "auditor", "viewer"):
        assert site.client(role).get("/models").status_code == 403
