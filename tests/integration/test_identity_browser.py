"""Passkeys with a real authenticator of Chromium, and the screen lock over two windows."""

import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from sqlalchemy import update
from werkzeug.serving import make_server

from db.identity_models import Passkey
from db.report_models import Report, UserAccount
from db.types import AccountSource
from tests.dashboard_support import PASSWORD, Site, ct_study, make_site
from tests.oidc_support import OidcProvider

pytestmark = pytest.mark.browser

ROOT = Path(__file__).resolve().parents[2]
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
SLOW_MS = 60_000  # a busy machine is no failure


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    built = (ROOT / "dashboard" / "static" / "build" / "viewer.js").is_file()
    if path is None or not built:
        reason = "Chromium or the built front end is not there"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    expect.set_options(timeout=SLOW_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def served(tmp_path: Path, sqlite_url: str) -> Iterator[tuple[Site, str]]:
    site = make_site(tmp_path, sqlite_url, identity={"oidc": OidcProvider("http://127.0.0.1:9", tmp_path).settings()})
    server = make_server("127.0.0.1", 0, site.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site, f"http://localhost:{server.server_port}"  # WebAuthn knows names, not addresses
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    opened = chromium.new_context(viewport={"width": 1280, "height": 800})
    opened.set_default_timeout(SLOW_MS)
    yield opened
    opened.close()


def authenticator(page: Page) -> Any:
    """Give the page's browser a security key with a PIN, as the DevTools protocol plays it."""
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    key = session.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"]
    return lambda is_verified: session.send(
        "WebAuthn.setUserVerified", {"authenticatorId": key, "isUserVerified": is_verified}
    )


def log_in(page: Page, base: str, login: str = "radiologist") -> None:
    page.goto(f"{base}/login")
    page.fill("#login", login)
    page.fill("#password", PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_url(re.compile("/(worklist|problems|audit)"))


def violations(page: Page) -> list[str]:
    found = Axe().run(page).response["violations"]
    return [f"{one['id']}: {[node['html'][:120] for node in one['nodes']]}" for one in found]


def test_a_passkey_is_registered_logs_in_unlocks_and_is_refused_unverified_or_cloned(
    context: BrowserContext, served: tuple[Site, str]
) -> None:
    site, base = served
    page = context.new_page()
    verify = authenticator(page)
    log_in(page, base)
    page.locator("details.account > summary").click()
    page.get_by_role("link", name="Passkeys").click()
    page.get_by_label("Name, such as").fill("Reading room 2")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_text("Passkey added.")).to_be_visible()
    expect(page.get_by_role("cell", name="Reading room 2", exact=True)).to_be_visible()
    assert violations(page) == []

    page.locator("details.account > summary").click()
    page.get_by_role("button", name="Log out", exact=True).click()
    page.wait_for_url(re.compile("/login"))
    assert violations(page) == []
    page.get_by_role("button", name="Use a passkey").click()
    page.wait_for_url(re.compile("/worklist"))
    assert site.one(Passkey, name="Reading room 2").sign_count > 0

    page.goto(f"{base}/passkeys")
    page.get_by_role("button", name="Lock", exact=True).click()
    expect(page.get_by_role("heading", name="Locked")).to_be_visible()
    page.get_by_role("dialog").get_by_role("button", name="Use a passkey").click()
    expect(page.get_by_role("heading", name="Passkeys")).to_be_visible()
    assert "user:screen_unlocked" in site.tags()

    # a copy of the key would have counted further than this one has
    page.locator("details.account > summary").click()
    page.get_by_role("button", name="Log out", exact=True).click()
    page.wait_for_url(re.compile("/login"))
    with site.sessions.begin() as db:
        db.execute(update(Passkey).values(sign_count=10_000))
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.get_by_text("This passkey is not known here")).to_be_visible()
    assert site.tags(tag="passkey:cloned") == ["passkey:cloned"]
    with site.sessions.begin() as db:
        db.execute(update(Passkey).values(sign_count=1))
    verify(False)
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.get_by_text("No passkey was used")).to_be_visible()


def test_the_lock_covers_every_window_keeps_the_text_and_opens_where_it_was(
    context: BrowserContext, served: tuple[Site, str]
) -> None:
    site, base = served
    study_id = site.drafted(ct_study(3))
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.clock.install()
    log_in(page, base)
    reader = site.client("radiologist")
    reader.submit(f"/studies/{study_id}/review")
    page.goto(f"{base}/studies/{study_id}")
    second = context.new_page()
    second.goto(f"{base}/problems")
    impression = page.locator("textarea[name=impression]").first
    impression.evaluate("area => { area.value = 'Typed, and not saved yet.'; }")

    page.clock.fast_forward(601_000)
    expect(page.get_by_role("heading", name="Locked")).to_be_visible()
    expect(second.get_by_role("heading", name="Locked")).to_be_visible()
    for covered in (page, second):
        shown = covered.locator("body").aria_snapshot()
        assert "Unlock" in shown
        for hidden in ("Halvorsen", "HALVORSEN", "ACC-1001", "Impression", "Typed", "Worklist", "Findings"):
            assert hidden not in shown
        assert covered.title() == "Locked · Firstread"
    assert violations(page) == []
    painted = page.evaluate(
        """() => [...document.querySelectorAll('body > :not(#lock-screen), body > :not(#lock-screen) *')]
             .filter((one) => getComputedStyle(one).visibility !== 'hidden').length"""
    )
    assert painted == 0
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="Locked")).to_be_visible()

    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Password of radiologist").fill("wrong")
    dialog.get_by_role("button", name="Unlock").click()
    expect(dialog.get_by_role("alert")).to_contain_text("not right")
    # the session ends meanwhile, too: the same cover begins it again
    context.clear_cookies()
    dialog.get_by_label("Password of radiologist").fill(PASSWORD)
    dialog.get_by_role("button", name="Unlock").click()
    expect(impression).to_be_visible()
    expect(impression).to_have_value("Typed, and not saved yet.")
    expect(second.get_by_role("heading", name="Locked")).to_be_hidden()
    assert page.title() != "Locked · Firstread"
    impression.press("End")
    page.keyboard.type(" Saved now.")
    page.keyboard.press("Control+s")
    expect(page.locator("#save-state")).to_contain_text("Saved")
    assert site.report(study_id).sections["impression"] == "Typed, and not saved yet. Saved now."
    # what the page asked for under the cover was refused, and may say so
    assert [one for one in errors if "423" not in one] == []


def test_the_pages_of_people_are_clean_for_a_screen_reader(context: BrowserContext, served: tuple[Site, str]) -> None:
    site, base = served
    study_id = site.drafted(ct_study(2))
    site.client("admin").submit(f"/break-glass/{study_id}", reason="Vendor ticket 4711, overlay missing")
    page = context.new_page()
    for login, paths in (
        ("admin", ("/users", "/tokens", "/account/password", f"/break-glass/{study_id}")),
        ("auditor", ("/break-glass",)),
    ):
        context.clear_cookies()
        log_in(page, base, login)
        for path in paths:
            page.goto(f"{base}{path}")
            assert violations(page) == [], path


def test_what_was_typed_before_a_sign_on_is_there_again_for_its_reader_alone(
    context: BrowserContext, served: tuple[Site, str]
) -> None:
    site, base = served
    addendum = f"{base}/studies/{site.drafted(ct_study(1))}/addendum"
    page = context.new_page()
    log_in(page, base)
    with site.sessions.begin() as db:
        db.execute(update(UserAccount).where(UserAccount.login == "radiologist").values(source=AccountSource.OIDC))

    def leave() -> None:
        page.fill("#text", "Seen again: a fracture of rib 7.")
        page.get_by_role("link", name="Confirm with").click()
        page.get_by_text("single sign-on does not answer").wait_for()

    page.goto(addendum)
    leave()
    page.goto(addendum)
    expect(page.locator("#text")).to_have_value("Seen again: a fracture of rib 7.")
    expect(page.get_by_role("status").filter(has_text="is here again")).to_be_visible()
    leave()
    with site.sessions.begin() as db:  # somebody else changes the report meanwhile
        db.execute(update(Report).values(version=Report.version + 1))
    page.goto(addendum)
    expect(page.locator("#text")).to_have_value("")
    page.get_by_role("button", name="Put it back").click()
    expect(page.locator("#text")).to_have_value("Seen again: a fracture of rib 7.")
    leave()
    context.clear_cookies()  # the session ends, the tab stays
    log_in(page, base, "lead")
    page.goto(addendum)
    expect(page.locator("#text")).to_have_value("")
    assert page.evaluate("Object.values(sessionStorage).filter((one) => one.includes('rib 7'))") == []
