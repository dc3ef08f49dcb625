"""The worklist in a real browser: it lives, and no row moves under the reader's hand."""

import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from db.types import ReportState
from tests.dashboard_support import Site, ct_study
from tests.integration.test_dashboard_browser import (  # noqa: F401 fixtures
    SLOW_MS,
    chromium,
    log_in,
    open_page,
    served,
    unlabelled,
)

pytestmark = pytest.mark.browser


def order(page: Page) -> list[str]:
    """The patients shown, from top to bottom."""
    return page.locator("td.named a").all_inner_texts()


def places(page: Page) -> list[float]:
    """Where the rows are on the screen."""
    tops = "rows => rows.map(r => r.getBoundingClientRect().top)"
    return list(page.locator("table.worklist tbody tr").evaluate_all(tops))


def test_rows_live_and_stay_where_they_are(
    chromium: Browser,  # noqa: F811
    served: tuple[Site, str],  # noqa: F811
) -> None:
    site, base = served
    studies = [site.drafted(ct_study(1, PatientName=f"Case^{n}")) for n in range(3)]
    page, errors = open_page(chromium)
    log_in(page, base)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wrap = page.locator(".table-wrap")
    assert wrap.evaluate("e => e.scrollWidth <= e.clientWidth")  # nothing to scroll for at 1280 px
    assert unlabelled(page) == []
    found = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []

    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("x")
    selected = page.locator("tr.selected")
    expect(selected).to_have_attribute("id", f"s-{studies[1]}")
    before, spots = order(page), places(page)

    # meanwhile another reader opens the first study, and a fourth arrives that would stand among them
    other = site.client("lead")
    other.submit(f"/studies/{studies[0]}/review")
    site.drafted(ct_study(1, PatientName="New^Arrival"))
    bar = page.locator("#news .notice")
    expect(bar).to_contain_text("1 new, 1 no longer here", timeout=SLOW_MS)
    expect(page.locator(f"#reader-{studies[0]}")).to_contain_text("Lea Head")
    expect(page.locator(f"#status-{studies[0]}")).to_contain_text("In review")
    expect(page.locator('[data-tab="to_read"] .count')).to_have_text("3")
    assert (order(page), places(page)) == (before, spots)
    expect(selected).to_have_attribute("id", f"s-{studies[1]}")
    expect(selected.locator("input[name=study]")).to_be_checked()

    # take over is asked, and names the holder
    page.locator(f"#actions-{studies[0]}").get_by_role("button", name="Take over…").click()
    expect(page.get_by_text("Take over from Lea Head?")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    assert site.report(studies[0]).state is ReportState.IN_REVIEW

    page.keyboard.press("m")  # takes the selected study, in its place
    expect(page.locator(f"#reader-{studies[1]}")).to_have_text(re.compile("You"), timeout=SLOW_MS)
    assert order(page) == before

    page.get_by_role("link", name="Show the new list").click()
    expect(page.locator("td.named a")).to_have_count(3)
    assert "ARRIVAL, New" not in before
    assert "NEW, Arrival" in order(page)
    expect(page.locator(f"#s-{studies[1]} input[name=study]")).to_be_checked()
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("Escape")
    page.locator("h1").evaluate("() => document.activeElement.blur()")
    assert errors == []
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/studies/"))
