"""What comes from outside is text: on every page, in every field, whoever looks; and nothing reaches past its place."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest

from dashboard.permissions import allows
from db.types import Role
from tests.dashboard_support import PEOPLE, SECTIONS, Browser, Site, ct_study, make_site

ATTACK = '"><script>x()</script>{{7*191}}'  # breaks out of an attribute, then of the template
CODE_ATTACK = "'\"><B ONX=X>"  # as long as a CS may be
RIGHT_TO_LEFT = "דו״ח רדיולוגי: ללא ממצאים."
HOSTILE = {
    "PatientName": f"{ATTACK}^{ATTACK}",
    "PatientID": ATTACK,
    "PatientBirthDate": "<b>1958<",
    "PatientSex": CODE_ATTACK,
    "StudyID": "'\"><i>",
    "AccessionNumber": "'\"><i>{{7*191}}",
    "StudyDescription": ATTACK,
    "SeriesDescription": ATTACK,
    "ReferringPhysicianName": ATTACK,
    "BodyPartExamined": CODE_ATTACK,
    "Manufacturer": ATTACK,
    "ManufacturerModelName": ATTACK,
    "StudyDate": "<i>2026<",
    "InstitutionName": ATTACK,
    "StationName": CODE_ATTACK,
    "ProtocolName": ATTACK,
}
# pages that are not the dashboard's own, or whose answer is no page
OTHERS = ("static", "dicomweb.", "fhir.", "workitems.", "oidc.", "passkeys.")


class _Elements(HTMLParser):
    """Collects the scripts, event handlers and styles of a page, as a browser would find them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "script" and not given.get("src"):
            self.found.append("inline script")
        self.found += [f"{tag} {name}" for name in given if name.startswith("on") or name in {"style", "onx"}]
        self.found += [f"{tag} {v}" for v in given.values() if (v or "").strip().lower().startswith("javascript:")]


def dangers(page: str) -> list[str]:
    """What a browser would run or style in a page, and templates that were evaluated."""
    parser = _Elements()
    parser.feed(page)
    return parser.found + (["template evaluated"] if "1337" in page else [])


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def pages(site: Site, study_id: UUID, role: Role) -> list[str]:
    """The address of every page that a role may open, about one study."""
    report = site.report(study_id)
    values = {
        "study_id": study_id,
        "series_id": site.series_id(study_id),
        "finding_id": site.findings(study_id)[0].id,
        "report_id": report.id,
        "draft_id": report.draft_id,
        "reading_id": site.reading_id(study_id),
        "index": 0,
        "state": "PRELIMINARY",
    }
    found = []
    with site.app.test_request_context():
        for rule in site.app.url_map.iter_rules():
            view = site.app.view_functions[rule.endpoint]
            permission = getattr(view, "permission", None)
            if (
                "GET" not in (rule.methods or ())
                or rule.endpoint.startswith(OTHERS)
                or not rule.arguments <= set(values)
            ):
                continue
            if permission is not None and allows(role, permission):
                found.append(site.app.url_for(rule.endpoint, **{name: values[name] for name in rule.arguments}))
    return found


@pytest.mark.requirement("REQ-ACCESS-4")
@pytest.mark.parametrize("role", [r for r in PEOPLE if r is not Role.VIEWER])
def test_script_in_any_dicom_text_field_is_text_on_every_page(site: Site, role: Role) -> None:
    sections = {key: f"{text} {ATTACK}" for key, text in SECTIONS.items()}
    study_id = site.drafted(ct_study(3, **HOSTILE), sections=sections)
    reader = site.client("radiologist")
    reader.submit(f"/studies/{study_id}/review")
    reader.submit(f"/studies/{study_id}/sections", version=site.report(study_id).version, findings=f"{ATTACK} {ATTACK}")
    browser = reader if role is Role.RADIOLOGIST else site.client(role.value)
    asked = pages(site, study_id, role)
    answers = {path: browser.get(path, follow_redirects=True) for path in asked}
    assert {path: bad for path, one in answers.items() if "html" in one.mimetype and (bad := dangers(one.text))} == {}
    assert {path: one.status_code for path, one in answers.items() if one.status_code >= 500} == {}
    shown = [path for path, one in answers.items() if "html" in one.mimetype and "&lt;script&gt;" in one.text.lower()]
    assert shown or role in {Role.ADMIN, Role.AUDITOR}, "the attack was nowhere shown, so nothing was tried"


def _edit(site: Site, study_id: UUID, **sections: str) -> tuple[Browser, int]:
    reader = site.client("radiologist")
    reader.submit(f"/studies/{study_id}/review")
    version = site.report(study_id).version
    return reader, reader.submit(f"/studies/{study_id}/sections", version=version, **sections).status_code


def test_a_report_of_ten_thousand_characters_is_kept_shown_and_printed(site: Site) -> None:
    study_id = site.drafted(ct_study(3))
    long = " ".join(f"Sentence {number} of a very long report." for number in range(1, 270))[:10_000]
    reader, status = _edit(site, study_id, findings=long)
    assert (status, site.report(study_id).sections["findings"]) == (303, long)
    for path in ("", "/report", "/sign/FINAL"):
        assert "Sentence 255 of a very" in reader.get(f"/studies/{study_id}{path}").text
    assert reader.get(f"/studies/{study_id}/report.pdf").data[:4] == b"%PDF"


def test_text_from_right_to_left_keeps_its_direction(site: Site) -> None:
    study_id = site.drafted(ct_study(3))
    reader, status = _edit(site, study_id, impression=RIGHT_TO_LEFT)
    assert (status, site.report(study_id).sections["impression"]) == (303, RIGHT_TO_LEFT)
    page = reader.get(f"/studies/{study_id}").text
    around = re.search(r"<textarea[^>]*>" + re.escape(RIGHT_TO_LEFT), page)
    assert around is not None
    assert 'dir="auto"' in around[0]  # the browser's bidirectional algorithm takes the text's own direction


def test_forged_ids_of_another_study_change_nothing(site: Site) -> None:
    mine, other = site.drafted(ct_study(2)), site.drafted(ct_study(2))
    reader, _ = _edit(site, mine, findings="mine")
    foreign = site.findings(other)[0].id
    version = site.report(mine).version
    answer = reader.submit(f"/studies/{mine}/findings/{foreign}", decision="accepted", version=version)
    assert answer.status_code in {404, 409}
    assert site.findings(other)[0].decision == "pending"
    assert reader.get(f"/studies/{mine}/series/{site.series_id(other)}/slices/0.png").status_code == 404
    for path in (f"/studies/{uuid4()}", f"/studies/{uuid4()}/sign/FINAL", f"/studies/{uuid4()}/report.pdf"):
        assert reader.get(path).status_code == 404
    assert reader.submit(f"/studies/{uuid4()}/sections", version=1, findings="x").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/static/../../config/settings.py",
        "/static/..%2f..%2fconfig/settings.py",
        "/static/%2e%2e/%2e%2e/config/settings.py",
        "/static//etc/passwd",
        "/studies/..%2f..%2fetc/passwd",
        "/dicomweb/studies/..%2f..%2f..%2fetc%2fpasswd/metadata",
        "/dicomweb/studies/1.2.826.0.1.3680043%00/metadata",
        f"/quality/{quote('../../etc/passwd', safe='')}.csv",
    ],
)
def test_a_path_leads_nowhere_else(site: Site, path: str) -> None:
    answer = site.client("lead").get(path, follow_redirects=True)
    assert answer.status_code in {400, 404}
    assert b"root:" not in answer.data
    assert b"pydantic" not in answer.data


def test_a_form_that_is_too_large_is_refused_before_it_is_read(site: Site) -> None:
    study_id = site.drafted(ct_study(2))
    before = site.report(study_id).sections
    _, status = _edit(site, study_id, findings="x" * (2 * 1024**2))
    assert status == 413
    assert site.report(study_id).sections == before
    _, status = _edit(site, study_id, findings="x" * 70_000)  # fits into a form, not into a section
    assert status == 400
    assert site.report(study_id).sections == before
