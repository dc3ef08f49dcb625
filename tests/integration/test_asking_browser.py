"""Asking the model in a real browser: by keyboard, about the image on screen, live, and copied only by an act."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from db.asking_models import Question, Redraft
from db.lifecycle import asking
from db.models import Instance
from tests.dashboard_support import SECTIONS, Site, ct_study
from tests.integration.test_asking_pages import answer, offer
from tests.integration.test_dashboard_browser import SLOW_MS, chromium, log_in, served  # noqa: F401 fixtures

pytestmark = pytest.mark.browser


@pytest.fixture
def page(served, chromium) -> Iterator[Page]:  # noqa: F811 they are the fixtures
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(SLOW_MS)
    yield context.new_page()
    context.close()


def _violations(page: Page, part: str) -> list[str]:
    found = Axe().run(page, context=part, options={"runOnly": ["wcag2a", "wcag2aa"]}).response["violations"]
    return [f"{one['id']}: {[node['target'] for node in one['nodes']]}" for one in found]


def test_an_answer_comes_by_itself_and_enters_the_text_only_when_told_to(
    served: tuple[Site, str],  # noqa: F811
    page: Page,
    tmp_path: Path,
) -> None:
    expect.set_options(timeout=SLOW_MS)
    site, base = served
    study_id = site.drafted(ct_study(6))
    log_in(page, base)
    page.goto(f"{base}/studies/{study_id}")
    page.get_by_role("button", name="Start review").click()
    expect(page.locator("#viewer [data-uid]:not([data-uid=''])").first).to_be_attached()
    page.keyboard.press("q")
    expect(page.locator("#question")).to_be_focused()
    page.keyboard.type("Is there free air?")
    page.get_by_label("about the image on screen").check()
    page.locator("#asking form.ask button").click()
    expect(page.locator(".question")).to_contain_text("Waiting")
    question = site.one(Question)
    assert site.one(Instance, sop_instance_uid=question.sop_instance_uid).study_id == study_id
    page.locator("[data-tab=report]").click()
    page.locator("#section-findings").press_sequentially(" Typed meanwhile.")
    answer(site, question.id, "No free air is seen.")
    page.locator("[data-tab=evidence]").click()
    expect(page.locator(".answer .words")).to_have_text("No free air is seen.")
    assert "No free air" not in page.locator("#section-findings").input_value()
    assert _violations(page, "#asking") == []
    page.get_by_role("button", name="Copy, marked as AI text").click()
    expect(page.locator("#section-findings")).to_have_value(
        re.compile(re.escape(asking.marked("No free air is seen.")))
    )
    text = site.report(study_id).sections["findings"]
    assert "Typed meanwhile." in text  # what was typed was saved before the answer was put behind it

    page.locator("[data-tab=report]").click()
    page.get_by_text("Ask for another draft of these images").click()
    page.locator("#instruction").fill("Compare the left apex.")
    page.get_by_role("button", name="Make another draft").click()
    expect(page.locator("#redraft [role=status]")).to_contain_text("Your text stays as it is")
    offer(site, site.one(Redraft).id, sections=SECTIONS | {"impression": "Nothing new."})
    expect(page.locator("#redraft .offer")).to_contain_text("New AI draft, not yet adopted")
    assert _violations(page, "#redraft") == []
    page.get_by_role("button", name="Adopt this draft").click()
    expect(page.locator("#section-impression")).to_have_value("Nothing new.")
    assert site.report(study_id).sections["impression"] == "Nothing new."
