"""Who is to read a study: the rules of taking and giving, and what the worklist shows of them while it lives."""

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import update

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db.lifecycle.assigning import Before, assign, unassign
from db.models import Study
from db.report_models import UserAccount
from db.types import Role, utcnow
from db.uow import Actor, unit_of_work
from db.worklist_models import Assignment
from tests.dashboard_support import Browser, Site, ct_study, make_site
from tests.db_support import SWEEPER, Journey, Sessions, decide_all, open_review, person, received, sign, tags


def holder(sessions: Sessions, report_id: UUID) -> UUID | None:
    with sessions() as session:
        held = session.get(Assignment, report_id)
        return held.user_id if held else None


@pytest.fixture
def journey(sessions: Sessions) -> Journey:
    return received(sessions).queued().running().drafted(objects=[])


def test_a_reader_takes_a_study_and_a_lead_gives_it_to_another(sessions, journey):
    report_id, version = journey.report().id, journey.report().version
    reader, other = person(sessions, "reader"), person(sessions, "other", role=Role.RESIDENT)
    lead = person(sessions, "lead", role=Role.LEAD)
    for _ in range(2):  # the second time it is the reader's already
        with unit_of_work(sessions, reader) as uow:
            assign(uow, report_id, reader.user_id, before=Before.NOBODY)
    with pytest.raises(NotAuthorisedError), unit_of_work(sessions, reader) as uow:
        assign(uow, report_id, other.user_id)
    with pytest.raises(NotAuthorisedError), unit_of_work(sessions, other) as uow:
        unassign(uow, report_id)
    with unit_of_work(sessions, lead) as uow:
        assign(uow, report_id, other.user_id)
    assert holder(sessions, report_id) == other.user_id
    with unit_of_work(sessions, reader) as uow:  # who looked sees it is the other's
        assign(uow, report_id, reader.user_id, before=other.user_id)
    for _ in range(2):
        with unit_of_work(sessions, lead) as uow:
            unassign(uow, report_id)
    assert holder(sessions, report_id) is None
    assert tags(sessions, report_id=report_id, actor_kind="person") == [
        "report:assigned",
        "report:assigned",
        "report:assigned",
        "report:unassigned",
    ]
    assert journey.report().version == version  # an editor who has it open is not stale


@pytest.mark.parametrize("role", [Role.VIEWER, Role.ADMIN, Role.AUDITOR])
def test_only_who_works_on_reports_takes_or_is_given_one(sessions, journey, role):
    report_id = journey.report().id
    lead, outsider = person(sessions, "lead", role=Role.LEAD), person(sessions, "outsider", role=role)
    with pytest.raises(NotAuthorisedError), unit_of_work(sessions, outsider) as uow:
        assign(uow, report_id, outsider.user_id)
    with pytest.raises(RefusedInputError), unit_of_work(sessions, lead) as uow:
        assign(uow, report_id, outsider.user_id)
    with pytest.raises(RefusedInputError), unit_of_work(sessions, lead) as uow:
        assign(uow, report_id, uuid4())
    gone = person(sessions, "gone", active=False)
    with pytest.raises(RefusedInputError), unit_of_work(sessions, lead) as uow:
        assign(uow, report_id, gone.user_id)
    with pytest.raises(NotAuthorisedError), unit_of_work(sessions, SWEEPER) as uow:
        unassign(uow, report_id)
    assert holder(sessions, report_id) is None


def test_what_is_final_or_was_fetched_for_comparison_is_not_assigned(sessions, journey):
    reader = person(sessions)
    sign(journey, reader, decide_all(journey, reader, open_review(journey, reader)))
    prior = received(sessions, "1.2.3")
    with sessions.begin() as session:
        session.get_one(Study, prior.study_id).is_prior = True
    for report_id in (journey.report().id, prior.report().id, uuid4()):
        for act in (lambda uow, one: assign(uow, one, reader.user_id), unassign):
            with pytest.raises(LifecycleError), unit_of_work(sessions, reader) as uow:
                act(uow, report_id)
    assert "report:assigned" not in tags(sessions)


def test_of_several_who_take_the_same_study_at_once_one_has_it(sessions, journey):
    report_id = journey.report().id
    readers = [person(sessions, f"reader{n}") for n in range(3)]

    def take(reader: Actor) -> bool:
        try:
            with unit_of_work(sessions, reader) as uow:
                assert reader.user_id is not None
                assign(uow, report_id, reader.user_id, before=Before.NOBODY)
        except LifecycleError:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        won = list(pool.map(take, readers))
    assert won.count(True) == 1
    assert holder(sessions, report_id) == readers[won.index(True)].user_id


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def account(site: Site, login: str) -> UUID:
    found: UUID = site.one(UserAccount, login=login).id
    return found


def pulse_of(browser: Browser, address: str = "/worklist") -> str:
    match = re.search(r'hx-get="(/worklist/pulse[^"]+)"', browser.get(address).text)
    assert match is not None
    return match[1].replace("&amp;", "&")


def piece(page: str, name: str, study_id: UUID) -> str:
    """The text of one live piece of a row."""
    match = re.search(rf'id="{name}-{study_id}"[^>]*>(.*?)(?=<div class="live"|</td>|\Z)', page, re.DOTALL)
    assert match is not None, name
    return " ".join(re.sub(r"<[^>]+>", " ", match[1]).split())


def test_a_row_says_whose_it_is_and_mine_lists_it(site: Site) -> None:
    study_id = site.drafted(ct_study(1))
    reader, lead = site.client("radiologist"), site.client("lead")
    assert piece(reader.get("/worklist").text, "reader", study_id) == "Nobody"
    answer = reader.submit(f"/studies/{study_id}/take", list="tab=to_read&modality=CT", before="")
    assert answer.headers["Location"] == "/worklist?tab=to_read&modality=CT"
    assert piece(reader.get("/worklist?tab=mine").text, "reader", study_id) == "You"
    assert piece(lead.get("/worklist").text, "reader", study_id) == "Maria Lund"
    assert "HALVORSEN" not in lead.get("/worklist?tab=mine").text
    assert "HALVORSEN" in lead.get(f"/worklist?assigned={account(site, 'radiologist')}").text
    assert "HALVORSEN" not in lead.get("/worklist?assigned=nobody").text
    # the slower of two is told, and nothing is taken from anybody unseen
    assert site.client("resident").submit(f"/studies/{study_id}/take", before="").status_code == 409
    assert lead.submit(f"/studies/{study_id}/assign", reader=str(account(site, "resident"))).status_code == 303
    assert reader.submit(f"/studies/{study_id}/leave").status_code == 403
    assert lead.submit(f"/studies/{study_id}/assign", reader="").status_code == 303
    assert site.tags(tag="report:unassigned", study_id=study_id) == ["report:unassigned"]
    for wrong in ("nobody", str(account(site, "admin"))):
        assert lead.submit(f"/studies/{study_id}/assign", reader=wrong).status_code == 400


@pytest.mark.requirement("REQ-SIGN-9")
def test_several_are_assigned_at_once_and_never_signed(site: Site) -> None:
    studies = [site.drafted(ct_study(1, PatientName=f"Case^{n}")) for n in range(3)]
    lead, reader = site.client("lead"), site.client("radiologist")
    reader.submit(f"/studies/{studies[0]}/take", before="")
    chosen = [str(one) for one in studies]
    taken = site.client("resident").submit("/worklist/take", study=chosen, list="tab=to_read&sort=oldest")
    assert taken.headers["Location"] == "/worklist?tab=to_read&sort=oldest"
    page = lead.get("/worklist").text
    assert [piece(page, "reader", one) for one in studies] == ["Maria Lund", "Rasmus Ident", "Rasmus Ident"]
    given = lead.submit("/worklist/assign", study=chosen, reader=str(account(site, "lead")), list="tab=x")
    assert given.headers["Location"] == "/worklist?tab=to_read"
    assert [site.one(Assignment, report_id=site.report(one).id).user_id for one in studies] == [
        account(site, "lead")
    ] * 3
    assert reader.submit("/worklist/assign", study=chosen, reader="").status_code == 403
    for wrong in ({}, {"study": "x"}, {"study": [str(uuid4())] * 201}):
        assert lead.submit("/worklist/assign", reader="", **wrong).status_code == 400
    # what signs, amends, rejects or decides names its one study in its address, and no list of studies is read there
    for rule in site.app.url_map.iter_rules():
        if "POST" in (rule.methods or ()) and rule.endpoint.split(".")[0] in {"signoff", "amendments", "reading"}:
            assert "study_id" in rule.arguments, rule.endpoint
    page = lead.get("/worklist").text
    assert not re.findall(r'(?:action|formaction|hx-post)="[^"]*/(?:sign|addendum|correction|reject)', page)


def test_the_reading_page_says_whose_study_it_is(site: Site) -> None:
    study_id = site.drafted(ct_study(1))
    lead, reader, viewer = (site.client(login) for login in ("lead", "radiologist", "viewer"))
    words = [
        " ".join(re.sub(r"<[^>]+>", " ", one.get(f"/studies/{study_id}").text.split('id="assigned">')[1][:400]).split())
        for one in (lead, reader, viewer)
    ]
    assert all(text.startswith("Assigned to nobody") for text in words)
    assert ["Take" in text for text in words] == [True, True, False]
    assert reader.submit(f"/studies/{study_id}/take", before="").headers["Location"] == f"/studies/{study_id}"
    assert "Give back" in reader.get(f"/studies/{study_id}").text
    assert f"/studies/{study_id}/assign" in lead.get(f"/studies/{study_id}").text
    assert f"/studies/{study_id}/assign" not in reader.get(f"/studies/{study_id}").text


def test_rows_live_without_moving_and_the_bar_says_what_is_new(site: Site) -> None:
    first, second = (site.drafted(ct_study(1, PatientName=f"Case^{n}")) for n in range(2))
    with site.sessions.begin() as db:  # long ago, so that no clock of theirs moves on meanwhile
        db.execute(update(Study).values(last_received_at=utcnow() - timedelta(days=5)))
    watcher, reader = site.client("lead"), site.client("radiologist")
    address = pulse_of(watcher)
    quiet = watcher.get(address).text
    assert "has changed" not in quiet
    again = re.search(r'hx-get="([^"]+)"', quiet)
    assert again is not None
    assert watcher.get(again[1].replace("&amp;", "&")).status_code == 204  # nothing new since

    reader.submit(f"/studies/{second}/review")
    told = watcher.get(address).text
    assert "The list has changed: 1 no longer here." in told
    assert re.search(r"Maria Lund since \d\d:\d\d", piece(told, "reader", second))
    assert piece(told, "status", second).endswith("In review")
    assert "Take over from Maria Lund" in piece(told, "actions", second)
    assert piece(told, "reader", first) == "Nobody"
    assert told.index(f"status-{first}") < told.index(f"status-{second}")

    new = site.drafted(ct_study(1, PatientName="New^Arrival"))
    told = watcher.get(address).text
    assert "The list has changed: 1 new, 1 no longer here." in told
    assert str(new) not in told  # not before the reader asks for it
    assert "ARRIVAL" not in told.upper()
    assert "1 new" in site.client("viewer").get(address).text
    assert watcher.get("/worklist/pulse?shown=x").status_code == 400


def test_a_study_is_taken_over_from_the_list_after_its_holder_was_named(site: Site) -> None:
    study_id = site.drafted(ct_study(1))
    site.client("radiologist").submit(f"/studies/{study_id}/review")
    other = site.client("lead")
    page = other.get("/worklist?tab=in_review").text
    assert "Take over from Maria Lund?" in piece(page, "actions", study_id)
    assert other.submit(f"/studies/{study_id}/review").status_code == 409  # not without having read that
    assert other.submit(f"/studies/{study_id}/review", take_over="1").status_code == 303
    assert site.report(study_id).locked_by == account(site, "lead")
    assert "Continue" in piece(other.get("/worklist?tab=mine").text, "actions", study_id)
    assert site.tags(tag="report:taken_over", study_id=study_id) == ["report:taken_over"]


def test_a_list_is_kept_opened_and_deleted_and_names_no_patient(site: Site) -> None:
    site.drafted(ct_study(1))
    reader, lead = site.client("radiologist"), site.client("lead")
    reader.submit("/worklist/search", search="Halvorsen", list="tab=to_read&modality=CT&days=7&assigned=nobody")
    page = reader.get("/worklist?tab=to_read&modality=CT&days=7&assigned=nobody").text
    assert "HALVORSEN" not in "".join(re.findall(r'(?:href|action|hx-get|hx-post)="[^"]*"', page)).upper()
    here = re.search(r'name="list" value="([^"]+)"', page)
    assert here is not None
    kept = reader.submit("/worklist/lists", name="CT morning", list=here[1].replace("&amp;", "&"))
    address = "/worklist?tab=to_read&modality=CT&assigned=nobody&days=7"
    assert kept.headers["Location"] == address
    assert f'href="{address}"'.replace("&", "&amp;") in reader.get("/worklist").text
    assert "CT morning" not in lead.get("/worklist").text
    assert reader.submit("/worklist/lists", name="x", list=here[1], shared="1").status_code == 403
    assert lead.submit("/worklist/lists", name="Everybody's", list="tab=preliminary", shared="1").status_code == 303
    assert "Everybody&#39;s" in reader.get("/worklist").text
    drop = re.search(r'action="(/worklist/lists/[^"]+/drop)"', reader.get("/worklist").text)
    assert drop is not None
    assert reader.submit(drop[1]).status_code == 303
    assert "CT morning" not in reader.get("/worklist").text


def test_every_tab_and_filter_opens_and_no_other(tmp_path: Path, database_url: str) -> None:
    site = make_site(tmp_path, database_url)
    site.drafted(ct_study(1))
    reader = site.client("radiologist")
    page = reader.get("/worklist").text
    tabs = re.findall(r'<a href="([^"]+)" data-tab=', page)
    assert len(tabs) == 11
    for address in tabs:
        assert reader.get(address.replace("&amp;", "&")).status_code == 200
    assert "HALVORSEN" in reader.get("/worklist?first=2026-11-21&last=2026-11-21&sender=CT1").text
    assert "HALVORSEN" not in reader.get("/worklist?first=2026-11-22").text
    assert "HALVORSEN" not in reader.get("/worklist?sender=OTHER").text
    for wrong in (
        "tab=x",
        "sort=x",
        "priority=x",
        "days=3",
        "assigned=x",
        "first=yesterday",
        "last=20261301",
        "before=x",
    ):
        assert reader.get(f"/worklist?{wrong}").status_code == 400, wrong
