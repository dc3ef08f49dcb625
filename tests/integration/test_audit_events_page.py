"""The page of events by any conditions: they come and go, an address keeps what names no patient, all is recorded."""

import re

import pytest
from lxml import html
from sqlalchemy import select

from db.audit import AuditTag
from db.models import AuditEvent, Study
from db.types import Role
from db.uow import Actor, unit_of_work
from tests.dashboard_support import PEOPLE, Site, ct_study, make_site

EVENTS = "/audit/events"
READER = Actor("radiologist", "person")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = make_site(tmp_path_factory.mktemp("site"))
    study_id = made.drafted(ct_study(2))
    with unit_of_work(made.sessions, READER) as uow:
        for number in range(130):
            uow.audit(AuditTag.REPORT_VIEWED, study_id=study_id, detail={"tab": f"<b>number {number}</b>"})
    return made


def _page(answer) -> html.HtmlElement:
    return html.fromstring(answer.text)


def _on(page) -> list[str]:
    return [one.get("value") for one in page.xpath("//form[@id='conditions']//input[@name='on']")]


def _rows(page) -> list[str]:
    return [row.xpath("string(td[1])").strip() for row in page.xpath("//table//tbody/tr")]


def test_conditions_are_added_and_taken_away_and_keep_what_was_typed(site):
    auditor = site.client("auditor")
    first = _page(auditor.get(EVENTS))
    assert _on(first) == ["since", "until"]
    added = _page(auditor.submit(EVENTS, **{"on": ["since"], "p.since": "-3d", "act": "add", "add": "role"}))
    assert _on(added) == ["since", "role"]
    assert added.xpath("//input[@name='p.since']/@value") == ["-3d"]
    assert added.xpath("//select[@name='p.role']/@autofocus")
    assert "role" not in added.xpath("//select[@name='add']/option/@value")
    gone = _page(
        auditor.submit(EVENTS, **{"on": ["since", "role"], "p.since": "-3d", "p.role": "lead", "act": "remove since"})
    )
    assert _on(gone) == ["role"]
    assert gone.xpath("//select[@name='p.role']/option[@selected]/@value") == ["lead"]
    nonsense = _page(auditor.submit(EVENTS, on=["since", "colour", "since"], act="add", add="colour"))
    assert _on(nonsense) == ["since"]


def test_the_return_key_asks_and_takes_nothing_away(site):
    page = _page(site.client("auditor").get(EVENTS))
    (first, *_) = page.xpath("//form[@id='conditions']//button")
    assert (first.get("name"), first.get("value")) == ("act", "ask")


def test_pages_of_events_go_on_and_show_words_as_words(site):
    auditor = site.client("auditor")
    asked = {"on": ["tag"], "p.tag": "report:viewed", "act": "ask"}
    first = _page(auditor.submit(EVENTS, **asked))
    cursor = first.xpath("//input[@name='cursor']/@value")[0]
    second = _page(auditor.submit(EVENTS, **asked, cursor=cursor))
    assert (len(_rows(first)), len(_rows(second))) == (100, 30)
    assert len({*_rows(first), *_rows(second)}) == 130
    assert not second.xpath("//input[@name='cursor']")
    assert not first.xpath("//td//b")
    assert "<b>number 129</b>" in first.xpath("string(//table)")


def test_an_address_to_keep_names_no_patient_and_asks_nothing(site):
    auditor = site.client("auditor")
    given = {"on": ["tag", "study", "text"], "p.tag": "report:*", "p.study": "ACC-77", "p.text": "Haldorsen"}
    page = _page(auditor.submit(EVENTS, **given, act="add", add="role"))
    (kept,) = page.xpath("//form[@id='conditions']//a/@href")
    assert kept == "/audit/events?tag=report%3A%2A"
    assert "without what names a patient" in page.xpath("string(//form[@id='conditions'])")
    before = len(_events(site, AuditTag.AUDIT_VIEWED))
    opened = _page(auditor.get(f"{kept}&study=ACC-77&text=Haldorsen&colour=red"))
    assert _on(opened) == ["tag"]
    assert opened.xpath("//input[@name='p.tag']/@value") == ["report:*"]
    assert not opened.xpath("//table")
    assert len(_events(site, AuditTag.AUDIT_VIEWED)) == before


def _events(site: Site, tag: AuditTag) -> list[AuditEvent]:
    with site.sessions() as session:
        return list(session.scalars(select(AuditEvent).where(AuditEvent.tag == tag).order_by(AuditEvent.seq)))


def test_each_asking_is_recorded_and_what_names_a_patient_stands_apart(site):
    site.client("auditor").submit(EVENTS, **{"on": ["tag", "patient"], "p.tag": "report:*", "p.patient": "P-SECRET"})
    last = _events(site, AuditTag.AUDIT_VIEWED)[-1]
    assert last.detail["question"] == "E1"
    assert last.detail["parameters"]["tag"] == "report:*"
    assert "P-SECRET" not in last.body
    assert last.detail["patient"] == {"patient": "P-SECRET"}


def test_what_would_read_the_whole_log_is_refused_on_the_page(site):
    answer = site.client("auditor").submit(EVENTS, **{"on": ["role"], "p.role": "lead", "act": "ask"})
    assert answer.status_code == 400
    assert "31 days apart at most" in _page(answer).xpath("string(//*[@role='alert'])")
    assert _on(_page(answer)) == ["role"]


def test_conditions_are_labelled(site):
    given = {"on": ["since", "role", "study"], "act": "ask"}
    page = _page(site.client("auditor").submit(EVENTS, **given))
    fields = page.xpath("//form[@id='conditions']//*[self::select or self::input[not(@type='hidden')]]")
    assert len(fields) == 4  # and the list of others
    assert all(page.xpath(f"//label[@for='{one.get('id')}']") for one in fields)
    ids = list(page.xpath("//@id"))
    assert len(ids) == len(set(ids))
    names = page.xpath("//button[starts-with(@value, 'remove')]/@aria-label")
    assert len(names) == len(set(names)) == 3


@pytest.mark.parametrize("role", [role for role in PEOPLE if role is not Role.AUDITOR])
def test_only_auditors_ask_for_events(site, role):
    browser = site.client(role.value)
    assert browser.get(EVENTS).status_code == 403
    assert browser.submit(EVENTS, on="tag").status_code == 403


def test_the_whole_answer_is_exported(site):
    answer = site.client("auditor").submit("/audit/questions/events/csv", **{"p.tag": "report:viewed"})
    assert answer.status_code == 200
    assert len(re.findall("report:viewed", answer.text)) >= 130


@pytest.mark.parametrize(
    ("slug", "given", "told"),
    [
        ("timeline-study", {"p.study": ""}, "study:received"),
        ("timeline-user", {"p.login": "radiologist"}, "report:viewed"),
        ("timeline-model", {"p.package": "nothing"}, "package: there is none"),
        ("incidents", {"p.which": "delays", "p.minutes": "0"}, "late draft"),
        ("late-input", {}, "Nothing was found"),
        ("derived", {"p.study": ""}, "draft_model"),
    ],
)
def test_each_timeline_has_its_page(site, slug, given, told):
    with site.sessions() as session:
        study_id = session.scalars(select(Study.id)).one()
    given = {name: value or str(study_id) for name, value in given.items()}
    answer = site.client("auditor").submit(f"/audit/questions/{slug}", **given)
    assert answer.status_code == (400 if slug == "timeline-model" else 200)
    assert told in answer.text
