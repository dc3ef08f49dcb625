"""The radiologist's whole journey in a real browser, with the built script."""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from sqlalchemy import update
from werkzeug.serving import make_server

from config.settings import Destination
from db.models import Study
from db.types import Decision, ReportState
from tests.dashboard_support import PASSWORD, Site, ct_study, make_site

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SLOW_MS = 60_000  # a busy machine is no failure


def _need(found: object, reason: str) -> None:
    if found:
        return
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    _need(path, "Chromium is not installed (apt-get install chromium)")
    built = (ROOT / "dashboard" / "static" / "build" / "viewer.js").is_file()
    _need(built, "the front end is not built (npm ci && npm run build in dashboard/viewer)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def served(tmp_path: Path, sqlite_url: str) -> Iterator[tuple[Site, str]]:
    pacs = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=11119)
    site = make_site(tmp_path, sqlite_url, destinations=(pacs,))
    server = make_server("127.0.0.1", 0, site.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def open_page(browser: Browser, *, script: bool = True) -> tuple[Page, list[str]]:
    """A page at the narrowest supported width, and the list its errors go to."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}, java_script_enabled=script).new_page()
    page.set_default_timeout(SLOW_MS)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    return page, errors


def log_in(page: Page, base: str) -> None:
    page.goto(f"{base}/login")
    page.fill("#login", "radiologist")
    page.fill("#password", PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(re.compile("/worklist"))


def unlabelled(page: Page) -> list[str]:
    """Controls that a screen reader could not name, and ids that are used twice."""
    return list(
        page.evaluate(
            """() => {
              const named = e => e.labels?.length || e.getAttribute('aria-label') || e.getAttribute('title');
              const controls = [...document.querySelectorAll('input:not([type=hidden]), select, textarea')];
              const buttons = [...document.querySelectorAll('button, a[href]')];
              const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
              return [
                ...controls.filter(e => !named(e)).map(e => e.outerHTML),
                ...buttons.filter(e => !named(e) && !e.textContent.trim() && !e.querySelector('img[alt]'))
                          .map(e => e.outerHTML),
                ...[...document.querySelectorAll('img:not([alt])')].map(e => e.outerHTML),
                ...ids.filter((id, at) => ids.indexOf(id) !== at),
                ...(document.documentElement.lang ? [] : ['no language']),
              ];
            }"""
        )
    )


def test_a_radiologist_reads_edits_and_signs(chromium: Browser, served: tuple[Site, str]) -> None:
    site, base = served
    study_id = site.drafted(ct_study(8))
    page, errors = open_page(chromium)

    log_in(page, base)
    assert unlabelled(page) == []
    page.get_by_role("button", name="Read").click()
    page.wait_for_url(re.compile(f"/studies/{study_id}"))
    expect(page.get_by_text("AI-generated draft, not verified")).to_be_visible(timeout=SLOW_MS)
    assert unlabelled(page) == []

    # the viewer opens on the finding and scrolls by wheel and key; the finding's link comes back to its slice
    pane = page.locator(".cs-pane")
    expect(pane).to_have_attribute("data-index", "5", timeout=SLOW_MS)
    pane.hover()
    page.mouse.wheel(0, 100)
    expect(pane).to_have_attribute("data-index", "6")
    page.keyboard.press("Home")
    expect(pane).to_have_attribute("data-index", "0")
    page.get_by_role("tab", name="Findings").click()
    page.get_by_role("link", name="Show slice 6").click()
    expect(pane).to_have_attribute("data-index", "5")
    page.keyboard.press("2")
    expect(page.locator(".cs-window")).to_have_text("C 40 W 400")

    # accept the finding, then edit: no reload, and the version follows
    page.locator("[data-key=accept]").click()
    expect(page.locator("#undecided")).to_have_text("0 undecided", timeout=SLOW_MS)
    page.get_by_role("tab", name="Report").click()
    page.get_by_label("Impression").fill("Right lung tumor; recommend tissue diagnosis.")
    expect(page.locator("#save-state")).to_have_text("Unsaved changes")
    page.keyboard.press("Control+s")
    expect(page.locator("#save-state")).to_contain_text("Saved version", timeout=SLOW_MS)
    assert site.findings(study_id)[0].decision is Decision.ACCEPTED
    assert site.report(study_id).sections["impression"] == "Right lung tumor; recommend tissue diagnosis."

    # unsaved text is saved on the way to the sign page
    page.get_by_label("Recommendation").fill("CT-guided biopsy.")
    page.get_by_role("link", name="Sign final…").click()
    page.wait_for_url(re.compile("/sign/FINAL"))
    expect(page.get_by_text("CT-guided biopsy.")).to_be_visible()
    assert unlabelled(page) == []
    page.get_by_label("I have checked the points above").check()
    page.get_by_label("Your password, to sign").fill("wrong")
    page.get_by_role("button", name="Sign final report").click()
    expect(page.locator("#sign-error")).to_contain_text("the password is wrong", timeout=SLOW_MS)
    assert site.report(study_id).state is ReportState.IN_REVIEW

    page.get_by_label("I have checked the points above").check()
    page.get_by_label("Your password, to sign").fill(PASSWORD)
    page.get_by_role("button", name="Sign final report").click()
    expect(page.locator("#report-state")).to_have_text("Final", timeout=SLOW_MS)
    expect(page.locator(".signature")).to_contain_text("Maria Lund")
    expect(page.get_by_text("AI-generated draft, not verified")).to_have_count(0)
    expect(page.locator("textarea")).to_have_count(0)
    assert site.report(study_id).state is ReportState.FINAL
    # the refused password is answered with an error status, which the console notes; nothing else may be there
    assert [error for error in errors if "403" not in error] == []


def test_the_whole_review_works_without_a_script(chromium: Browser, served: tuple[Site, str]) -> None:
    site, base = served
    study_id = site.drafted(ct_study(4))
    page, _ = open_page(chromium, script=False)
    log_in(page, base)
    page.get_by_role("button", name="Read").click()
    page.get_by_role("link", name="Next slice").click()
    page.get_by_role("link", name="Lung", exact=True).click()
    expect(page.locator("[data-show=slice]")).to_have_text("4 / 4", timeout=SLOW_MS)
    expect(page.locator("#slice")).to_have_attribute("src", re.compile("window=-600"))
    page.locator("[data-key=accept]").click()
    expect(page.locator("#undecided")).to_have_text("0 undecided", timeout=SLOW_MS)
    page.get_by_label("Impression").fill("Tumor.")
    page.locator(".actions-bar").get_by_role("button", name="Save").click()
    page.get_by_role("link", name="Sign final…").click()
    page.get_by_label("I have checked the points above").check()
    page.get_by_label("Your password, to sign").fill(PASSWORD)
    page.get_by_role("button", name="Sign final report").click()
    expect(page.locator("#report-state")).to_have_text("Final", timeout=SLOW_MS)
    assert site.report(study_id).sections["impression"] == "Tumor."


def test_a_study_that_is_being_received_counts_down_and_hears_of_new_images(
    chromium: Browser, served: tuple[Site, str]
) -> None:
    site, base = served
    images = ct_study(3)
    site.receive(images[:2])
    with site.sessions.begin() as db:
        db.execute(update(Study).values(quiet_s=3600.0))
    page, errors = open_page(chromium)
    log_in(page, base)
    page.goto(f"{base}/worklist?tab=processing")
    timer = page.locator("[data-timer]")
    expect(timer).to_contain_text("2 received")
    assert unlabelled(page) == []
    first = timer.locator("[data-seconds]").inner_text()
    expect(timer.locator("[data-seconds]")).not_to_have_text(first, timeout=SLOW_MS)
    assert re.fullmatch(r"59 min \d\d s", timer.locator("[data-seconds]").inner_text())
    site.receive(images[2:])
    expect(timer).to_contain_text("3 received", timeout=SLOW_MS)
    page.get_by_role("button", name="Process now").click()
    expect(page.get_by_text("processed with the images that are here")).to_be_visible(timeout=SLOW_MS)
    assert errors == []
