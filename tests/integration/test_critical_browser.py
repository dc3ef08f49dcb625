"""A critical result in a real browser: it is announced, answered by the keyboard alone, and judged by axe-core."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from db.critical_models import AlertState, CriticalAlert, CriticalCommunication
from tests.dashboard_support import Site
from tests.integration.test_critical_pages import alarmed
from tests.integration.test_dashboard_browser import (  # noqa: F401 fixtures
    SLOW_MS,
    chromium,
    log_in,
    open_page,
    served,
    unlabelled,
)

pytestmark = pytest.mark.browser
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}


@pytest.fixture
def page(chromium: Browser, served: tuple[Site, str]) -> Iterator[tuple[Page, list[str]]]:  # noqa: F811
    page, errors = open_page(chromium)
    log_in(page, served[1])
    yield page, errors
    page.context.close()


def faults(page: Page, inside: str) -> list[str]:
    """What axe-core finds wrong in a part of the page."""
    found = Axe().run(page, context=inside, options=RULES).response["violations"]
    return [f"{one['id']}: {node['html']}" for one in found for node in one["nodes"]]


def test_a_suspected_result_is_announced_answered_and_told_by_keyboard(
    page: tuple[Page, list[str]],
    served: tuple[Site, str],  # noqa: F811
    tmp_path: Path,
) -> None:
    del tmp_path
    (screen, errors), (site, base) = page, served
    study_id = alarmed(site)
    screen.evaluate("window.dispatchEvent(new Event('focus'))")  # the reader comes back to the window
    toast = screen.locator(".critical-live[aria-live=polite] .critical-toast")
    expect(toast).to_contain_text("Suspected critical result: Pneumothorax", timeout=SLOW_MS)
    expect(screen.locator(".critical-badge")).to_contain_text("1 critical")
    assert faults(screen, ".critical-live") == []
    toast.get_by_role("link", name="Open study").press("Enter")
    screen.wait_for_url(re.compile(f"/studies/{study_id}"))

    banner = screen.locator("#critical")
    clock = banner.locator(".critical-clock").first
    first = clock.inner_text()
    expect(clock).not_to_have_text(first, timeout=SLOW_MS)  # it runs
    assert re.fullmatch(r"29 min \d\d s to answer", clock.inner_text())
    assert faults(screen, "#critical") == []
    screen.keyboard.press("!")
    expect(banner.get_by_role("button", name="Confirm")).to_be_focused()
    screen.keyboard.press("Enter")
    expect(banner).to_contain_text("nobody told yet", timeout=SLOW_MS)

    screen.keyboard.press("!")
    expect(banner.get_by_label("Who", exact=True)).to_be_focused()
    screen.keyboard.type("Dr Berg")
    screen.keyboard.press("Enter")  # without read-back, and without a reason
    expect(screen.locator("#critical-error")).to_contain_text("read-back", timeout=SLOW_MS)
    assert faults(screen, "#critical") == []
    banner.get_by_label("Read back", exact=True).focus()
    screen.keyboard.press("Y")
    screen.keyboard.press("Tab")
    screen.keyboard.press("Enter")
    expect(banner).to_contain_text("Critical result communicated: Pneumothorax", timeout=SLOW_MS)
    assert site.one(CriticalAlert).state is AlertState.COMMUNICATED
    kept = site.one(CriticalCommunication)
    assert (kept.told_name, kept.read_back) == ("Dr Berg", True)

    for path in ("/critical", f"/critical/alerts/{kept.alert_id}"):
        screen.goto(f"{base}{path}")
        assert unlabelled(screen) == []
        assert faults(screen, "body") == []
    # what was refused is answered with an error status, which the console notes; nothing else may be there
    assert [error for error in errors if "400" not in error] == []
