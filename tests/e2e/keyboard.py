"""A radiologist at a real browser who has no mouse: keys only, and what is on the screen."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--no-first-run",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SLOW_MS = 90_000  # a busy machine is no failure
expect.set_options(timeout=SLOW_MS)
SCREENSHOTS = os.environ.get("FIRSTREAD_SCREENSHOTS", "")  # folder; `make screenshots` sets it


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Chromium with a software renderer for WebGL."""
    path = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
    if path is None:
        reason = "Chromium is not installed (apt-get install chromium)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Keyboard:
    """One person at one browser window."""

    page: Page
    base: str
    errors: list[str] = field(default_factory=list)

    @classmethod
    def sit_down(cls, browser: Browser, base: str, *, width: int = 1600, height: int = 900) -> "Keyboard":
        """Open a window; errors of its scripts are kept."""
        page = browser.new_context(viewport={"width": width, "height": height}).new_page()
        page.set_default_timeout(SLOW_MS)
        one = cls(page, base)
        page.on("pageerror", lambda error: one.errors.append(str(error)))
        # a refusal that the page handles (401, 409, 423) is printed by the browser as an error too
        page.on("console", lambda line: one._note(line.text) if line.type == "error" else None)
        return one

    def _note(self, line: str) -> None:
        if not re.search(r"status of 4\d\d", line):
            self.errors.append(line)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            self.page.keyboard.press(key)

    def type(self, text: str) -> None:
        """Type into whatever has the focus."""
        self.page.keyboard.type(text)

    def tab_to(self, selector: str, *, most: int = 150) -> None:
        """Press Tab until what the selector means has the focus, as people without a mouse do."""
        expect(self.page.locator(selector).first).to_be_visible()
        for _ in range(most):
            if self.page.evaluate("s => !!document.activeElement?.matches(s)", selector):
                return
            self.press("Tab")
        raise AssertionError(f"Tab never reaches {selector} on {self.page.url}")

    def log_in(self, login: str, password: str) -> None:
        """Come from nowhere, type login and password."""
        self.page.goto(self.base)
        self.tab_to("#login")
        self.type(login)
        self.press("Tab")
        self.type(password)
        self.press("Enter")
        self.page.wait_for_url(lambda url: "/login" not in url)

    def find(self, accession: str) -> None:
        """Search the worklist for an accession number and open the one study that has it."""
        self.page.goto(f"{self.base}/worklist?tab=all")
        self.press("/")
        self.press("Control+a")
        self.type(accession)
        with self.page.expect_navigation(wait_until="load"):  # keys work once the script runs
            self.press("Enter")
        expect(self.page.locator("table.worklist tbody tr")).to_have_count(1)
        self.press("j", "Enter")
        self.page.wait_for_url(re.compile(r"/studies/[0-9a-f-]{36}"))

    def start_review(self) -> None:
        """Take the review."""
        self.tab_to("[data-key=start]")
        self.press("Enter")
        expect(self.page.locator("#save-state")).to_be_visible()

    def images_are_up(self) -> None:
        """Wait until the stage has drawn its first image."""
        expect(self.page.locator("#viewer[data-stage=live]")).to_be_visible()

    def accept_all(self) -> None:
        """Accept every finding, by key."""
        pending = self.page.locator(".finding[data-decision=pending] [data-key=accept]")
        self.press("Alt+2")
        for _ in range(60):
            left = pending.count()
            if not left:
                return
            self.press("n")
            if self.page.locator(".finding.current[data-decision=pending]").count():
                self.press("a")
                expect(pending).to_have_count(left - 1)
        raise AssertionError("findings stay undecided")

    def write(self, section: str, text: str) -> None:
        """Put text at the end of a section."""
        self.press("Alt+1", "w")
        self.tab_to(f"#section-{section}")
        self.press("Control+End")
        self.type(text)
        self.press("Escape")
        self.press("Control+s")
        expect(self.page.locator("#save-state")).to_have_class(re.compile(r"(^| )saved"))

    def prove_and_sign(self, password: str) -> None:
        """Fill what the sign page asks for, then the password."""
        for at in range(self.page.locator(".issues input").count()):
            name = self.page.locator(".issues input").nth(at).get_attribute("name")
            self.tab_to(f"[name='{name}']")
            self.type("Checked on the images: the text is right")
        if self.page.locator("[name=checked]").count():
            self.tab_to("[name=checked]")
            self.press("Space")
        self.tab_to("#password")
        self.type(password)
        self.press("Enter")

    def picture(self, name: str, *, whole: bool = False) -> None:
        """Keep a screenshot for the documentation, where it is asked for."""
        if not SCREENSHOTS:
            return
        self.page.wait_for_timeout(800)  # transitions and late frames
        target = Path(SCREENSHOTS) / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=target, full_page=whole)
        Image.open(target).convert("RGB").quantize(192, dither=Image.Dither.NONE).save(target, optimize=True)
