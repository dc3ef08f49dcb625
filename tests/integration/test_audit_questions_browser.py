"""The audit's questions in a real browser: asked by the keyboard's order, paged, and nothing axe complains about."""

import threading
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from db.audit import AuditTag
from db.uow import Actor, unit_of_work
from tests.dashboard_support import PASSWORD, ct_study, make_site
from tests.integration.test_critical_browser import RULES
from tests.integration.test_dashboard_browser import SLOW_MS, chromium, unlabelled  # noqa: F401 a fixture

pytestmark = [pytest.mark.browser, pytest.mark.requirement("REQ-AUDIT-6")]


@pytest.fixture
def page(tmp_path_factory: pytest.TempPathFactory, chromium: Browser) -> Iterator[Page]:  # noqa: F811
    site = make_site(tmp_path_factory.mktemp("site"))
    study_id = site.receive(ct_study(1))
    with unit_of_work(site.sessions, Actor("reader", "person")) as uow:
        for _ in range(120):
            uow.audit(AuditTag.REPORT_VIEWED, study_id=study_id)
    server = make_server("127.0.0.1", 0, site.app, threaded=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    made = chromium.new_page(viewport={"width": 1280, "height": 800})
    made.set_default_timeout(SLOW_MS)
    base = f"http://127.0.0.1:{server.port}"
    made.goto(f"{base}/login")
    made.get_by_label("Login").fill("auditor")
    made.get_by_label("Password").fill(PASSWORD)
    made.get_by_role("button", name="Log in").click()
    made.goto(f"{base}/audit")
    yield made
    made.close()
    server.shutdown()


def complaints(page: Page) -> list[str]:
    found = Axe().run(page, options=RULES).response["violations"]
    return [f"{one['id']}: {one['nodes'][0]['html']}" for one in found] + unlabelled(page)


def test_an_auditor_asks_and_pages_and_axe_has_nothing_to_say(page: Page) -> None:
    assert complaints(page) == []
    page.get_by_role("link", name="Q2 · Accesses to a patient or study").click()
    assert complaints(page) == []
    page.get_by_label("Patient ID", exact=True).fill("P-1001")
    page.get_by_role("button", name="Ask", exact=True).click()
    rows = page.locator("table.events tbody tr")
    expect(rows).to_have_count(100, timeout=SLOW_MS)
    assert "P-1001" not in page.url
    assert complaints(page) == []
    page.get_by_role("button", name="Next page").click()
    expect(rows).to_have_count(21, timeout=SLOW_MS)  # 120 looks, and the scanner that sent it
    expect(page.get_by_label("Patient ID", exact=True)).to_have_value("P-1001")
    with page.expect_download() as taken:
        page.get_by_role("button", name="CSV").click()
    assert taken.value.suggested_filename.endswith(".csv")
    page.get_by_label("Patient ID", exact=True).fill("")
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("patient_id", timeout=SLOW_MS)
    assert complaints(page) == []
