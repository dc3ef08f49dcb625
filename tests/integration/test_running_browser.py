"""The administrator's pages in a real browser: the queue live, a dropped file, and nothing axe complains about."""

import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect
from werkzeug.serving import make_server

from db import lifecycle
from db.running_models import WorkerPresence
from db.types import utcnow
from db.uow import unit_of_work
from tests.dashboard_support import NODE, PASSWORD, WORKER, Site, ct_study, make_site
from tests.integration.test_dashboard_browser import SLOW_MS, chromium  # noqa: F401 a fixture
from tests.integration.test_running_rules import part10

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    chromium: Browser,  # noqa: F811
) -> Iterator[tuple[Site, Page, str]]:
    site = make_site(tmp_path_factory.mktemp("site"), dicom={"peers": [{"ae_title": "CT1", "host": "192.0.2.7"}]})
    server = make_server("127.0.0.1", 0, site.app, threaded=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    page = chromium.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(SLOW_MS)
    expect.set_options(timeout=SLOW_MS)
    base = f"http://127.0.0.1:{server.port}"
    page.goto(f"{base}/login")
    page.get_by_label("Login").fill("admin")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    yield site, page, base
    page.close()
    server.shutdown()


def add(site: Site, number: int) -> None:
    site.routed(site.receive(ct_study(1, AccessionNumber=f"ACC-{number}", PatientID=f"P-{number}")))


def test_the_queue_is_live_and_no_row_moves(served: tuple[Site, Page, str]) -> None:
    site, page, base = served
    with unit_of_work(site.sessions, NODE) as uow:
        uow.session.add(WorkerPresence(owner="gpu1:7", started_at=utcnow(), seen_at=utcnow(), models=[]))
    for number in (1, 2, 3):
        add(site, number)
    page.goto(f"{base}/queue")
    rows = page.locator("#queue-rows tbody tr")
    shown = rows.locator("td:nth-child(4)").all_inner_texts()
    assert shown == ["ACC-1", "ACC-2", "ACC-3"]
    page.get_by_label("Select ACC-3").check()
    with site.sessions() as db:
        first = lifecycle_queue(db)[0]
    with unit_of_work(site.sessions, WORKER) as uow:
        held = lifecycle.claim(uow, first, owner="gpu1:7", lease_s=60)
    assert held is not None
    expect(rows.nth(0)).to_contain_text("being read by gpu1:7")
    with unit_of_work(site.sessions, WORKER) as uow:
        lifecycle.no_draft(uow, held, "not a torso")
    add(site, 4)
    expect(rows.nth(0)).to_contain_text("left the queue")
    expect(page.locator("#queue-news")).to_contain_text("1 new in the queue.")
    assert rows.locator("td:nth-child(4)").all_inner_texts() == shown
    expect(page.get_by_label("Select ACC-3")).to_be_checked()
    page.get_by_role("button", name="Hold", exact=True).first.click()
    expect(page.locator("main")).to_contain_text("1 held.")
    expect(page.locator("#queue-rows")).to_contain_text("ACC-4")


def lifecycle_queue(db: object) -> list[object]:
    from db.queries import waiting_readings

    return list(waiting_readings(db, 10))  # type: ignore[arg-type]


def test_a_dropped_file_is_judged(served: tuple[Site, Page, str]) -> None:
    _, page, base = served
    page.goto(f"{base}/rules")
    content = part10(ct_study(1)[0])
    transfer = page.evaluate_handle(
        """bytes => { const moved = new DataTransfer();
        moved.items.add(new File([new Uint8Array(bytes)], "IM1")); return moved; }""",
        list(content),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    expect(page.locator("#verdict")).to_contain_text("by rule ct-torso")
    page.locator("#rules").fill("rules:\n  - name: mine\n    action: ignore\n    reason: edited here\n")
    page.get_by_role("button", name="Try these").click()
    expect(page.locator("#verdict")).to_contain_text("edited here")
