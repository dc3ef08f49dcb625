"""The reading room in a real browser over the real system: from the first login to the signed report, by keyboard."""

import re
import time
from datetime import UTC, datetime

import pydicom
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from sqlalchemy import select

from dashboard.passwords import hash_password
from db.models import AuditEvent, Study
from db.report_models import Report
from db.types import ReportState, Role
from db.uow import Actor, unit_of_work
from db.users import create_user
from dicom_node.send import send_folder
from firstread.demo import ENDED, outcome
from phantoms.hospital import play_hospital
from tests.e2e.keyboard import SLOW_MS, Keyboard, running_chromium

pytestmark = [pytest.mark.models, pytest.mark.browser, pytest.mark.timeout(900)]

SEED = 5  # patients of its own: the installation may be shared
WANTED = frozenset({"cxr-normal", "cxr-effusion-cardiomegaly", "ct-hepatic-tumor", "mr-glioma", "cxr-pneumothorax"})
WCAG_AA = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]
RESIDENT_PASSWORD = "a-resident-may-draft-2026"


@pytest.fixture(scope="module")
def accessions(installation, tmp_path_factory):
    """Accession numbers by name, once every study has ended where it should."""
    studies = play_hospital(tmp_path_factory.mktemp("reading-room"), seed=SEED, only=WANTED)
    for study in studies:
        dicom = installation.settings.dicom
        send_folder(study.folder, "127.0.0.1", dicom.port, dicom.ae_title, "CT_1")
    for study in studies:
        _eventually(lambda uid=study.study_uid: _has_ended(installation, uid), 600, f"{study.name} has ended")
    return {one.name: str(pydicom.dcmread(one.files[0], stop_before_pixels=True).AccessionNumber) for one in studies}


def _has_ended(installation, study_uid):
    installation.family.watch()
    with installation.sessions() as session:
        found = outcome(session, study_uid)
    return found is not None and found.reading.state in ENDED


def _eventually(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s: {what}")


@pytest.fixture(scope="module")
def chromium():
    with running_chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def resident(installation):
    """The password of a resident's account."""
    with unit_of_work(installation.sessions, Actor("tests", "process")) as uow:
        create_user(
            uow,
            login="resident",
            printed_name="Rasmus Ident",
            role=Role.RESIDENT,
            password_hash=hash_password(RESIDENT_PASSWORD),
        )
    return RESIDENT_PASSWORD


@pytest.fixture
def radiologist(installation, chromium):
    """A radiologist who has just logged in."""
    one = Keyboard.sit_down(chromium, installation.dashboard)
    one.log_in("radiologist", installation.passwords["radiologist"])
    yield one
    one.page.context.close()
    assert one.errors == []


def report_of(installation, accession) -> Report:
    with installation.sessions() as session:
        query = select(Report).join(Study, Study.id == Report.study_id).where(Study.accession_number == accession)
        return session.scalars(query).one()


def tags_of(installation, accession) -> list[str]:
    with installation.sessions() as session:
        query = select(AuditEvent.tag).join(Study, Study.id == AuditEvent.study_id)
        return list(session.scalars(query.where(Study.accession_number == accession).order_by(AuditEvent.seq)))


@pytest.mark.parametrize("name", ["cxr-effusion-cardiomegaly", "ct-hepatic-tumor", "mr-glioma"])
def test_from_login_to_signed_report_without_a_mouse(installation, accessions, radiologist, name):
    kind = name.partition("-")[0]
    radiologist.picture("worklist")
    radiologist.find(accessions[name])
    radiologist.images_are_up()
    radiologist.start_review()
    radiologist.images_are_up()
    radiologist.picture(f"reading-{kind}")
    found = Axe().run(radiologist.page, options={"runOnly": WCAG_AA})
    assert found.violations_count == 0, found.generate_report()
    radiologist.accept_all()
    radiologist.picture(f"findings-{kind}")
    radiologist.write("impression", " Read without a mouse.")
    radiologist.press("Control+Enter")
    radiologist.page.wait_for_url(re.compile("/sign/FINAL"))
    radiologist.picture(f"sign-{kind}", whole=True)
    radiologist.prove_and_sign(installation.passwords["radiologist"])
    radiologist.page.wait_for_url(re.compile(r"/studies/[0-9a-f-]{36}(/report)?(\?.*)?(#.*)?$"))
    report = report_of(installation, accessions[name])
    assert report.state is ReportState.FINAL
    assert report.sections["impression"].endswith("Read without a mouse.")


def test_an_addendum_follows_a_signed_report_though_the_session_ends_meanwhile(installation, accessions, radiologist):
    accession = accessions["mr-glioma"]
    radiologist.find(accession)
    radiologist.tab_to("a[href$='/addendum']")
    radiologist.press("Enter")
    radiologist.page.wait_for_url(re.compile("/addendum"))
    radiologist.tab_to("textarea")
    radiologist.type("Discussed in the tumour board.")
    radiologist.picture("addendum", whole=True)
    radiologist.page.context.clear_cookies()  # the session ended
    radiologist.prove_and_sign(installation.passwords["radiologist"])
    expect(radiologist.page.locator("#session-error")).to_contain_text("Your session has ended")
    expect(radiologist.page.locator("textarea").first).to_have_value("Discussed in the tumour board.")
    elsewhere = Keyboard(radiologist.page.context.new_page(), installation.dashboard)
    elsewhere.log_in("radiologist", installation.passwords["radiologist"])
    radiologist.page.bring_to_front()
    radiologist.tab_to("#password")
    radiologist.press("Enter")
    expect(radiologist.page.get_by_text("Discussed in the tumour board.").first).to_be_visible()
    assert report_of(installation, accession).state is ReportState.ADDENDED


@pytest.mark.requirement("REQ-EDIT-2")
def test_two_windows_of_one_report_lose_no_text(installation, chromium, accessions, radiologist):
    accession = accessions["cxr-normal"]
    radiologist.find(accession)
    radiologist.start_review()
    other = Keyboard.sit_down(chromium, installation.dashboard)
    other.log_in("radiologist", installation.passwords["radiologist"])
    other.find(accession)
    radiologist.write("impression", " From the first window.")
    other.press("Alt+1", "w")
    other.tab_to("#section-impression")
    other.press("Control+End")
    other.type(" From the second window.")
    other.press("Control+s")
    expect(other.page.get_by_role("heading", name="Not saved yet")).to_be_visible()
    for words in ("first", "From the second window."):  # the other text is marked word by word
        expect(other.page.locator("form.conflict")).to_contain_text(words)
    other.picture("conflict", whole=True)
    other.tab_to("[name=keep-impression]")  # one's own text is chosen; Enter saves it
    other.press("Enter")
    expect(other.page.locator("#section-impression")).to_have_value(re.compile("From the second window"))
    assert "From the second window." in report_of(installation, accession).sections["impression"]
    other.page.context.close()


def test_a_radiologist_takes_over_from_a_resident_who_keeps_the_text(
    installation, chromium, accessions, radiologist, resident
):
    accession = accessions["cxr-pneumothorax"]
    junior = Keyboard.sit_down(chromium, installation.dashboard)
    junior.log_in("resident", resident)
    junior.find(accession)
    junior.start_review()
    expect(junior.page.locator("[data-key=sign]")).to_have_count(0)  # a resident signs no final report
    radiologist.find(accession)
    radiologist.picture("held-by-another")
    radiologist.tab_to("form[action$='/review'] button.danger")
    radiologist.press("Enter")
    expect(radiologist.page.locator("#save-state")).to_be_visible()
    junior.press("Alt+1", "w", "Control+End")
    junior.type(" Typed by the resident.")
    junior.press("Control+s")
    expect(junior.page.get_by_text("Typed by the resident.").first).to_be_visible()
    expect(junior.page.get_by_text("Not saved").first).to_be_visible()
    assert "report:taken_over" in tags_of(installation, accession)
    assert "Typed by the resident." not in str(report_of(installation, accession).sections)
    junior.page.context.close()


def test_a_critical_result_is_confirmed_told_and_on_the_record(installation, accessions, radiologist):
    accession = accessions["cxr-pneumothorax"]
    radiologist.find(accession)
    radiologist.picture("critical-suspected")
    page = radiologist.page
    radiologist.tab_to("#critical form[action$='/confirm'] button")
    radiologist.press("Enter")
    expect(page.get_by_text("Critical result, nobody told yet").first).to_be_visible()
    expect(page.locator("#checks")).not_to_contain_text("neither confirmed nor dismissed")
    radiologist.tab_to("#critical details.tell summary")
    radiologist.press("Enter")
    radiologist.tab_to("#critical [name=told_name]")
    radiologist.type("Dr Berg")
    radiologist.press("Tab")
    radiologist.type("Ward physician")
    radiologist.tab_to("#critical [name=read_back]")
    radiologist.type("Yes")
    radiologist.picture("critical-telling")
    radiologist.tab_to("#critical form[action$='/communication'] button.primary")
    radiologist.press("Enter")
    expect(page.get_by_text("Critical result communicated").first).to_be_visible()
    radiologist.picture("critical-told")
    page.goto(f"{installation.dashboard}/critical")
    radiologist.picture("critical")
    kept = [tag for tag in tags_of(installation, accession) if tag.startswith("critical:")]
    assert len(kept) >= 3, kept  # suspected, confirmed, communicated


def test_a_rejected_draft_is_read_from_scratch(installation, accessions, radiologist):
    accession = accessions["cxr-pneumothorax"]
    radiologist.find(accession)
    if radiologist.page.locator("[data-key=start]").count():
        radiologist.start_review()
    radiologist.press("r")
    radiologist.page.wait_for_url(re.compile("/reject"))
    radiologist.tab_to("[name=kind]")
    radiologist.press("ArrowDown", "Space")
    radiologist.picture("reject")
    radiologist.tab_to("main form button.danger")
    radiologist.press("Enter")
    radiologist.page.wait_for_url(re.compile(r"/studies/[0-9a-f-]{36}$"))
    report = report_of(installation, accession)
    assert report.state is ReportState.REJECTED
    assert report.reason
    radiologist.start_review()
    expect(radiologist.page.locator("#section-impression")).to_have_value("")


PAGES = {
    "radiologist": ["worklist?tab=all", "critical", "wording", "problems", "trace", "account/password", "passkeys"],
    "lead": ["quality", "models", "worklist?tab=all"],
    "admin": ["queue", "destinations", "models", "rules", "disk", "self-test", "problems", "users", "tokens"],
    "auditor": ["audit", "critical/record", "break-glass"],
}


@pytest.mark.usefixtures("accessions")
@pytest.mark.parametrize("role", PAGES)
def test_every_page_is_accessible_and_fits_a_narrow_screen(installation, chromium, role):
    one = Keyboard.sit_down(chromium, installation.dashboard, width=1280, height=800)
    one.log_in(role, installation.passwords[role])
    for path in PAGES[role]:
        one.page.goto(f"{installation.dashboard}/{path}")
        one.picture(f"{role}-{path.partition('?')[0].replace('/', '-')}")
        found = Axe().run(one.page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        assert one.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} scrolls sideways"
    one.page.context.close()
    assert one.errors == []


def test_a_screen_that_locks_keeps_the_text(installation, accessions, radiologist):
    page = radiologist.page
    page.clock.install(time=datetime.now(UTC))
    radiologist.find(accessions["cxr-normal"])
    expect(page.locator("#save-state, [data-key=start]").first).to_be_visible()
    if not page.locator("#save-state").count():  # nobody reads it yet
        radiologist.start_review()
    radiologist.press("Alt+1", "w", "Control+End")
    radiologist.type(" Half a sent")
    page.clock.fast_forward(int(installation.settings.identity.lock_after_s * 1000 + 60_000))
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible(timeout=SLOW_MS)
    radiologist.picture("locked")
    assert page.locator("#desk").get_attribute("inert") is not None or page.evaluate(
        "() => !!document.querySelector('#desk').closest('[inert]')"
    )
    # the screen is covered at once, and the server told then
    for _ in range(SLOW_MS // 100):
        if page.evaluate("async () => (await fetch('/worklist')).status") == 423:
            break
        page.wait_for_timeout(100)
    else:
        pytest.fail("the server goes on answering a locked session")
    radiologist.type(installation.passwords["radiologist"])
    radiologist.press("Enter")
    expect(dialog).not_to_be_visible()
    expect(page.locator("#section-findings")).to_have_value(re.compile("Half a sent$"))
    radiologist.type("ence.")
    radiologist.press("Escape", "Control+s")
    expect(page.locator("#save-state")).to_have_class(re.compile(r"(^| )saved"))
    assert report_of(installation, accessions["cxr-normal"]).sections["findings"].endswith("Half a sentence.")
