"""Signing in a real browser: a check leads to its words, a passkey signs, the countdown runs, and it is stopped."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect
from werkzeug.serving import make_server

from config.destination import Destination
from db.report_models import Signature
from db.signing_models import HoldState, SafetyCheck, SignatureHold
from tests.dashboard_support import Site, make_site
from tests.integration.test_dashboard_signing import reviewed
from tests.integration.test_identity_browser import authenticator, chromium, log_in  # noqa: F401 a fixture
from tests.signing_support import REASON

pytestmark = pytest.mark.browser

PACS = Destination(name="PACS", ae_title="PACS", host="127.0.0.1", port=11119)


@pytest.fixture
def served(tmp_path: Path, sqlite_url: str) -> Iterator[tuple[Site, str]]:
    site = make_site(tmp_path, sqlite_url, destinations=(PACS,), review={"hold_s": 600})
    server = make_server("127.0.0.1", 0, site.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield site, f"http://localhost:{server.server_port}"  # WebAuthn knows names, not addresses
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.requirement("REQ-SIGN-2")
def test_a_passkey_signs_and_what_was_signed_is_stopped(
    chromium: Browser,  # noqa: F811
    served: tuple[Site, str],
) -> None:
    site, base = served
    reader = site.client("radiologist")
    study_id = reviewed(site, reader, marks=[])
    words = "There is a lung tumor of 12.4 ml in the left lung."
    version = site.report(study_id).version
    text = {"findings": f"Heart normal. {words}", "impression": "Lung tumor."}
    reader.submit(f"/studies/{study_id}/sections", version=version, **text)
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(60_000)
    authenticator(page)
    log_in(page, base)
    page.goto(f"{base}/passkeys")
    page.get_by_label("Name, such as").fill("Reading room 2")
    page.get_by_role("button", name="Add a passkey").click()
    expect(page.get_by_text("Passkey added.")).to_be_visible()

    page.goto(f"{base}/studies/{study_id}")
    page.locator("a[data-issue]").first.click()
    chosen = "() => { const a = document.activeElement; return a.value.slice(a.selectionStart, a.selectionEnd); }"
    assert page.evaluate(chosen) == words

    page.goto(f"{base}/studies/{study_id}/sign/FINAL")
    page.locator("input[name^=override-]").first.fill(REASON)
    page.locator(".sign-side [data-passkey-use]").click()
    page.wait_for_url(re.compile(f"/studies/{study_id}(#.*)?$"))
    assert site.one(Signature).method == "passkey"
    assert [one["reason"] for one in site.one(SafetyCheck).issues] == [REASON]

    left = page.locator("[data-seconds]")
    before = int(left.inner_text())
    expect(left).not_to_have_text(str(before))
    assert int(left.inner_text()) < before
    page.get_by_label("Why it is not sent").fill("Wrong side in the text")
    page.get_by_role("button", name="Stop sending").click()
    expect(page.get_by_text("Not sent: stopped by Maria Lund")).to_be_visible()
    assert site.one(SignatureHold).state is HoldState.STOPPED
    page.context.close()
