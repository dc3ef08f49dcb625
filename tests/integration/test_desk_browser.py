"""The report side of the reading page in a real browser: tabs, sentences, autosave, conflict, macros, accessibility."""

import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from werkzeug.serving import make_server

from db import lifecycle
from db.lifecycle.wording import NewTemplate, add_macro, add_template
from db.report_models import UserAccount
from db.uow import Actor, unit_of_work
from tests.dashboard_support import WORKER, Site, ct_study, make_site
from tests.db_support import new_draft
from tests.integration.test_dashboard_browser import FLAGS, SLOW_MS, _need, log_in, open_page

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    _need(path, "Chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, _migrated_file: Path) -> Site:
    folder = tmp_path_factory.mktemp("desk-browser")
    shutil.copyfile(_migrated_file, folder / "firstread.db")
    site = make_site(folder, f"sqlite:///{folder / 'firstread.db'}", review={"autosave_s": 1})
    lead = site.one(UserAccount, login="lead")
    with unit_of_work(site.sessions, Actor("lead", "person", lead.id)) as uow:
        add_macro(uow, "fu", "Follow-up CT in [ ] months, or [ ].", site=True)
        add_template(uow, NewTemplate("CT chest", {"recommendation": "[ ]"}, modality="CT"))
    return site


@pytest.fixture(scope="module")
def base(site: Site) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, site.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def opened(chromium: Browser, site: Site, base: str) -> tuple[Page, list[str]]:
    """One logged-in page for all tests here, and the list its errors go to."""
    page, errors = open_page(chromium)
    log_in(page, base)
    return page, errors


def review(page: Page, site: Site, base: str) -> UUID:
    """A new study, open for review; its id."""
    study_id = site.drafted(ct_study(3))
    page.goto(f"{base}/studies/{study_id}")
    page.get_by_role("button", name="Start review").click()
    expect(page.locator("#section-findings")).to_be_visible(timeout=SLOW_MS)
    return study_id


def violations(page: Page) -> list[str]:
    """What axe-core holds against the page, WCAG 2 A and AA."""
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
    return [f"{one['id']}: {[node['html'][:160] for node in one['nodes']]}" for one in found.response["violations"]]


def test_tabs_and_findings_go_by_keyboard_and_a_sentence_shows_its_slice(opened, site, base):
    page, errors = opened
    study_id = review(page, site, base)
    page.evaluate(
        "() => { window.shown = []; document.addEventListener('firstread:show', e => window.shown.push(e.detail)); }"
    )
    # arrows move between tabs, and only one part is on the screen
    page.get_by_role("tab", name="Report").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Findings")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#text")).to_be_hidden()
    page.keyboard.press("Alt+5")
    expect(page.locator("#history")).to_be_visible()
    assert page.url.endswith("#tab-history")
    page.goto(f"{base}/studies/{study_id}#deliveries")
    page.reload()
    expect(page.locator("#deliveries")).to_be_visible(timeout=SLOW_MS)
    page.evaluate(
        "() => { window.shown = []; document.addEventListener('firstread:show', e => window.shown.push(e.detail)); }"
    )
    page.keyboard.press("Alt+1")
    # a click into a finding's sentence tells the viewport where it is; one into another sentence does not
    area = page.locator("#section-findings")
    area.click(position={"x": 30, "y": 14})
    finding = site.findings(study_id)[0]
    key = finding.key_slice
    shown = page.evaluate("() => window.shown")
    assert [(one["sopInstanceUid"], one["seriesInstanceUid"]) for one in shown if "sopInstanceUid" in one] == [
        (key["sop_instance_uid"], key["series_instance_uid"])
    ]
    expect(page.locator(f"#finding-{finding.id}")).to_have_class(re.compile("current"))
    # the same by keys: accepted from the report, its tint goes, the rest keeps it
    page.keyboard.press("Escape")
    tints = page.locator("[data-section=findings] .tint .ai")
    expect(tints).to_have_count(2)
    page.keyboard.press("a")
    expect(page.locator("#undecided")).to_have_text("0 undecided", timeout=SLOW_MS)
    expect(tints).to_have_count(1)
    page.keyboard.press("x")
    page.keyboard.type("Artefact")
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Report")).to_have_attribute("aria-selected", "true", timeout=SLOW_MS)
    expect(page.locator("[data-section=findings] .tint .gone")).to_have_count(1)
    page.keyboard.press("d")
    expect(page.locator("#comparison .side-title")).to_have_count(2, timeout=SLOW_MS)
    for tab in range(1, 6):
        page.keyboard.press(f"Alt+{tab}")
        assert violations(page) == [], tab
    page.get_by_role("link", name="About this draft").click()
    expect(page.get_by_role("dialog", name="About this draft")).to_contain_text("VILA-M3 demo")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert violations(page) == []
    page.keyboard.press("Escape")
    assert [one for one in errors if "409" not in one] == []


def test_text_is_saved_by_itself_and_never_overwrites_anothers(opened, site, base):
    page, errors = opened
    study_id = review(page, site, base)
    state = page.locator("#save-state")
    page.get_by_label("Impression").fill("My words.")
    expect(state).to_have_text(re.compile(r"Saved version \d+ at \d\d:\d\d"), timeout=SLOW_MS)
    assert site.report(study_id).sections["impression"] == "My words."
    # a lost network keeps the text, and it is saved when it is back
    page.context.set_offline(True)
    page.get_by_label("Impression").fill("Written without a network.")
    expect(state).to_contain_text("Not saved: no connection", timeout=SLOW_MS)
    page.context.set_offline(False)
    expect(state).to_contain_text("Saved version", timeout=SLOW_MS)
    assert site.report(study_id).sections["impression"] == "Written without a network."
    # somebody was faster: both texts, and a choice for each section
    elsewhere = site.client("radiologist")
    faster = {"impression": "Saved elsewhere.", "technique": "CT with contrast."}
    elsewhere.submit(f"/studies/{study_id}/sections", version=site.report(study_id).version, **faster)
    page.get_by_label("Impression").fill("Typed here.")
    expect(state).to_contain_text("the report changed elsewhere", timeout=SLOW_MS)
    page.get_by_role("button", name="Compare both texts").click()
    expect(page.get_by_text("Not saved: this report changed")).to_be_visible(timeout=SLOW_MS)
    assert violations(page) == []
    page.get_by_label("Merged Impression").fill("Typed here, saved elsewhere.")
    page.get_by_role("button", name="Save my choice").click()
    expect(page.locator("#section-impression")).to_have_value("Typed here, saved elsewhere.", timeout=SLOW_MS)
    assert site.report(study_id).sections["technique"] == "CT with contrast."
    # the console notes the lost network and the refused save; nothing else may be there
    noted = ("409", "ERR_INTERNET_DISCONNECTED", "htmx:sendError", "htmx:afterRequest")
    assert [one for one in errors if not any(words in one for words in noted)] == []


def test_macros_fields_and_measurements_go_where_one_writes(opened, site, base):
    page, _ = opened
    study_id = review(page, site, base)
    area = page.get_by_label("Recommendation")
    area.click()
    page.keyboard.type("See. .fu ")
    expect(area).to_have_value("See. Follow-up CT in [ ] months, or [ ].")
    page.keyboard.type("3")  # the first field is selected
    page.keyboard.press("Tab")
    page.keyboard.type("sooner")
    expect(area).to_have_value("See. Follow-up CT in 3 months, or sooner.")
    page.evaluate(
        "() => document.dispatchEvent(new CustomEvent('firstread:measured', {detail: {text: 'Length 12.3 mm'}}))"
    )
    expect(area).to_have_value("See. Follow-up CT in 3 months, or sooner.")  # nothing unasked
    page.get_by_role("button", name="Insert “Length 12.3 mm”").click()
    expect(area).to_have_value(re.compile("Length 12.3 mm"))
    page.keyboard.press("Control+s")
    expect(page.locator("#save-state")).to_contain_text("Saved version", timeout=SLOW_MS)
    # a word that is no macro stays, and so does a single letter that is a key elsewhere
    page.keyboard.type(" .unknown xd")
    expect(area).to_have_value(re.compile(r" \.unknown xd"))
    page.get_by_role("link", name="Wording").click()
    expect(page.get_by_role("heading", name="Wording")).to_be_visible(timeout=SLOW_MS)
    assert violations(page) == []
    assert site.report(study_id).sections["recommendation"].startswith("See. Follow-up CT in 3 months")


def test_a_report_without_ai_begins_by_key_and_a_late_draft_is_told_beside_what_is_typed(opened, site, base):
    page, errors = opened
    errors.clear()  # the tests before meet refusals on purpose
    study_id = site.receive(ct_study(3))
    claim = site.claimed(study_id)
    page.goto(f"{base}/studies/{study_id}")
    expect(page.get_by_role("button", name="Report without AI")).to_be_visible(timeout=SLOW_MS)
    inside = (
        "[...document.querySelectorAll('.actions-bar > *')].every(e => e.getBoundingClientRect().right <= innerWidth)"
    )
    assert page.evaluate(inside)  # no word beside the button is cut off
    page.keyboard.press("w")
    area = page.locator("#section-findings")
    expect(area).to_be_visible(timeout=SLOW_MS)
    area.click()
    page.keyboard.type("Clear lungs.")
    new = new_draft(claim)
    with unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.drafted(uow, claim, new)
    page.keyboard.type(" No effusion.")
    expect(page.get_by_text("An AI draft came while you were writing")).to_be_visible(timeout=SLOW_MS)
    expect(area).to_have_value("Clear lungs. No effusion.")
    page.locator("#late-draft summary").click()
    expect(page.locator("#late-compare ins").first).to_be_visible(timeout=SLOW_MS)
    assert violations(page) == []
    page.get_by_role("button", name="Go on without it").click()
    expect(page.locator("#late-draft .notice")).to_have_count(0, timeout=SLOW_MS)
    expect(area).to_have_value("Clear lungs. No effusion.")
    assert site.report(study_id).sections["findings"] == "Clear lungs. No effusion."
    assert errors == []
