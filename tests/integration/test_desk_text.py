"""Acts on a report's text: accepted as it is, settled, restored, compared; conflicts that are resolved by section."""

import re
import shutil
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from db import lifecycle
from db.lifecycle import NewFinding
from db.models import AuditEvent
from db.report_models import ReportRevision, UserAccount
from db.types import Presence, ReportState, utcnow
from db.uow import Actor, unit_of_work
from db.wording_models import AcceptedText
from tests.dashboard_support import SECTIONS, Browser, Site, ct_study, make_site
from tests.db_support import Checked, an_object

CLAIM = "There is a lung tumor of 12.4 ml in the right lung."


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, _migrated_file: Path) -> Site:
    """One installation for all tests here; each has a study of its own."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copyfile(_migrated_file, folder / "firstread.db")
    return make_site(folder, f"sqlite:///{folder / 'firstread.db'}")


@pytest.fixture(scope="module")
def people(site: Site) -> dict[str, Browser]:
    """Everybody logged in once."""
    return {role: site.client(role) for role in ("radiologist", "lead", "viewer", "auditor", "admin")}


@pytest.fixture
def study_id(site: Site) -> UUID:
    return site.drafted(ct_study(2))


@pytest.fixture
def reader(people: dict[str, Browser], study_id: UUID) -> Browser:
    browser = people["radiologist"]
    browser.submit(f"/studies/{study_id}/review")
    return browser


def act(site: Site, reader: Browser, study_id: UUID, path: str, *, htmx: bool = True, **fields: object):
    seen = fields.pop("version", site.report(study_id).version)
    return reader.submit(f"/studies/{study_id}{path}", htmx=htmx, version=seen, **fields)


def decide(site: Site, reader: Browser, study_id: UUID, decision: str, reason: str = "") -> str:
    finding = site.findings(study_id)[0].id
    answer = act(site, reader, study_id, f"/findings/{finding}", decision=decision, reason=reason)
    assert answer.status_code == 200
    return answer.text


def settle(site: Site, reader: Browser, study_id: UUID, **fields: object):
    return act(site, reader, study_id, f"/findings/{site.findings(study_id)[0].id}/settle", **fields)


def detail(site: Site, study_id: UUID, tag: str) -> dict[str, object]:
    with site.sessions() as db:
        query = select(AuditEvent).where(AuditEvent.tag == tag, AuditEvent.study_id == study_id)
        found: dict[str, object] = db.scalars(query).one().detail
    return found


def tinted(page: str) -> set[str]:
    """Sections that the page calls the AI's."""
    return set(re.findall(r'class="section ai" data-section="(\w+)"', page))


def test_text_that_is_accepted_as_it_is_loses_its_mark_without_an_edit(site, study_id, reader):
    before = site.report(study_id)
    answer = act(site, reader, study_id, "/text/accept", section="technique")
    assert tinted(answer.text) == {"comparison", "findings", "impression"}
    assert answer.headers["HX-Trigger"] == f'{{"reportVersion": {site.report(study_id).version}}}'
    assert site.report(study_id).sections == before.sections
    assert site.report(study_id).version == before.version + 1
    kept = site.one(AcceptedText, report_id=before.id)
    assert (kept.section, kept.draft_id) == ("technique", before.draft_id)
    assert detail(site, study_id, "report:text_accepted") == {"section": "technique", "text_sha256": kept.text_sha256}
    # once is enough
    act(site, reader, study_id, "/text/accept", section="technique")
    assert site.tags(tag="report:text_accepted", study_id=study_id) == ["report:text_accepted"]


@pytest.mark.parametrize("section", ["history", "addendum", "nonsense", ""])
def test_only_text_of_the_draft_can_be_accepted(site, study_id, reader, section):
    assert act(site, reader, study_id, "/text/accept", section=section).status_code == 400
    assert site.tags(tag="report:text_accepted", study_id=study_id) == []


def test_a_sentence_whose_finding_was_accepted_is_no_longer_the_ais_alone(site, study_id, reader, people):
    decide(site, reader, study_id, "accepted")
    page = people["lead"].get(f"/studies/{study_id}").text  # who looks on sees sentences
    marked = re.findall(r'class="said ai"[^>]*>([^<]+)<', page)
    assert CLAIM not in marked
    assert "No pleural effusion." in marked


def test_a_sentence_leads_to_its_findings_slice(site, study_id, people):
    page = people["viewer"].get(f"/studies/{study_id}").text
    link = re.search(rf'<a class="said ai" href="([^"]+)"[^>]*data-of="([^"]+)">{re.escape(CLAIM)}</a>', page)
    assert link is not None
    assert link[2] == str(site.findings(study_id)[0].id)
    assert "slice=2" in link[1]


def test_a_rejected_findings_sentence_is_struck_on_request_only_and_can_be_brought_back(site, study_id, reader):
    offer = decide(site, reader, study_id, "rejected", "Artefact")
    assert "Strike it from the report" in offer
    assert site.report(study_id).sections["findings"] == SECTIONS["findings"]  # nothing silently
    answer = settle(site, reader, study_id)
    now = site.report(study_id).sections
    assert (now["findings"], now["impression"]) == ("No pleural effusion.", "")
    assert detail(site, study_id, "report:sentence_settled")["sections"] == ["findings", "impression"]
    undo = re.search(r'hx-post="[^"]*(/revisions/\d+/restore)"', answer.text)
    assert undo is not None
    act(site, reader, study_id, undo[1])
    assert site.report(study_id).sections["findings"] == SECTIONS["findings"]
    assert detail(site, study_id, "report:restored") == {"from_revision": 1}
    with site.sessions() as db:
        query = select(ReportRevision.number).where(ReportRevision.report_id == site.report(study_id).id)
        numbers = sorted(db.scalars(query))
    assert numbers == [1, 2, 3]  # restoring is a new revision; none is lost


def test_an_edited_findings_sentence_is_replaced_by_the_readers_words(site, study_id, reader):
    offer = decide(site, reader, study_id, "edited", "Benign granuloma in the right lung.")
    assert "Replace it by your words" in offer
    settle(site, reader, study_id)
    now = site.report(study_id).sections
    assert now["findings"] == "Benign granuloma in the right lung. No pleural effusion."
    assert "still says" not in reader.get(f"/studies/{study_id}").text


def test_a_sentence_is_settled_only_for_a_finding_that_does_not_stand(site, study_id, reader):
    assert settle(site, reader, study_id).status_code == 400  # undecided
    decide(site, reader, study_id, "accepted")
    assert settle(site, reader, study_id).status_code == 400
    forged = act(site, reader, study_id, f"/findings/{uuid4()}/settle")
    assert forged.status_code == 409
    assert site.report(study_id).sections == SECTIONS


def test_a_sentence_that_names_another_finding_too_is_never_struck(site, people):
    both = [
        NewFinding("nodule", Presence.PRESENT, "VLM"),
        NewFinding("mass", Presence.PRESENT, "VLM"),
    ]
    study_id = site.drafted(ct_study(1), findings=both, sections={"findings": "Nodule and mass. Nodule."})
    reader = people["radiologist"]
    reader.submit(f"/studies/{study_id}/review")
    decide(site, reader, study_id, "rejected", "Artefact")
    settle(site, reader, study_id)
    assert site.report(study_id).sections["findings"] == "Nodule and mass."


def test_what_was_typed_meanwhile_is_saved_with_the_act(site, study_id, reader):
    act(site, reader, study_id, "/text/accept", section="technique", recommendation="Follow-up.")
    assert site.report(study_id).sections["recommendation"] == "Follow-up."


@pytest.mark.parametrize("path", ["/text/accept", "/revisions/1/restore", "/text/template"])
def test_no_act_on_the_text_works_from_a_stale_page_or_without_the_lock(site, study_id, reader, people, path):
    fields = {"section": "technique", "template": str(uuid4())}
    stale = site.report(study_id).version
    act(site, reader, study_id, "/sections", findings="Changed.")
    answer = act(site, reader, study_id, path, version=stale, findings="Typed late.", **fields)
    assert answer.status_code == 409
    assert "Typed late." in answer.text  # both texts, nothing lost
    assert act(site, people["lead"], study_id, path, findings="Mine.", **fields).status_code == 409
    assert site.report(study_id).sections["findings"] == "Changed."


def test_an_unknown_revision_and_an_unknown_template_are_refused(site, study_id, reader):
    assert act(site, reader, study_id, "/revisions/99/restore").status_code == 409
    assert act(site, reader, study_id, "/text/template", template=str(uuid4())).status_code == 400
    assert act(site, reader, study_id, "/text/template", template="x", how="empty").status_code == 400
    assert act(site, reader, study_id, "/text/template", template=str(uuid4()), how="silently").status_code == 400


def test_too_much_text_is_refused_and_nothing_is_kept(site, study_id, reader):
    assert act(site, reader, study_id, "/sections", findings="x" * 65_537).status_code == 400
    assert act(site, reader, study_id, "/sections", findings="x" * (1024**2 + 1)).status_code == 413
    assert site.report(study_id).sections == SECTIONS


def test_a_report_of_ten_thousand_characters_in_any_direction_comes_back_as_written(site, study_id, reader):
    text = ("لا يوجد انصباب جنبي. <script>alert(1)</script> & “quotes” 12.4 ml. " * 160)[:10_000].strip()
    assert act(site, reader, study_id, "/sections", findings=text, impression=text[::-1]).status_code == 200
    assert site.report(study_id).sections["findings"] == text
    page = reader.get(f"/studies/{study_id}").text
    assert "<script>alert" not in page
    assert page.count('dir="auto"') > 6
    assert reader.get(f"/studies/{study_id}/compare").status_code == 200


def conflict(site: Site, reader: Browser, study_id: UUID) -> str:
    """Two tabs of one reader: the first one saved technique and impression, the second one its own impression."""
    stale = site.report(study_id).version
    act(site, reader, study_id, "/sections", technique="CT with contrast.", impression="First tab.")
    yours = SECTIONS | {"impression": "Second tab."}
    answer = act(site, reader, study_id, "/sections", htmx=False, version=stale, revision=1, **yours)
    assert answer.status_code == 409
    text: str = answer.text
    return text


def test_a_conflict_shows_only_what_differs_and_proposes_the_side_that_changed(site, study_id, reader):
    page = conflict(site, reader, study_id)
    ticked = dict(re.findall(r'name="keep-(\w+)" value="(\w+)" checked', page))
    assert ticked == {"technique": "theirs", "impression": "merged"}  # nobody is chosen where both wrote
    assert "<del>Second</del><ins>First</ins> tab." in page


def test_a_conflict_is_resolved_section_by_section_with_a_new_version(site, study_id, reader):
    conflict(site, reader, study_id)
    answer = act(
        site, reader, study_id, "/resolve", htmx=False,
        **{"yours-technique": SECTIONS["technique"], "keep-technique": "theirs", "yours-impression": "Second tab.",
           "keep-impression": "merged", "merged-impression": "First and second tab.", "yours-findings": "Mine."},
    )  # fmt: skip
    assert answer.status_code == 303
    now = site.report(study_id).sections
    assert now["technique"] == "CT with contrast."
    assert now["impression"] == "First and second tab."
    assert now["findings"] == "Mine."


def test_a_resolution_that_comes_too_late_is_a_conflict_again_and_keeps_the_choice(site, study_id, reader):
    conflict(site, reader, study_id)
    answer = act(
        site, reader, study_id, "/resolve", version=1, **{"yours-impression": "Second tab.", "keep-impression": "yours"}
    )
    assert answer.status_code == 409
    assert "Second tab." in answer.text


def test_text_typed_before_a_take_over_is_offered_back_and_saved_by_taking_over(site, study_id, reader, people):
    people["lead"].submit(f"/studies/{study_id}/review", take_over="1")
    late = act(site, reader, study_id, "/sections", htmx=False, impression="Typed by the first.")
    assert late.status_code == 409
    assert "Lea Head</b> is reading it now" in late.text
    assert "Typed by the first." in late.text
    chosen = {"yours-impression": "Typed by the first.", "keep-impression": "yours"}
    assert act(site, reader, study_id, "/resolve", version=1, take_over="1", **chosen).status_code == 409
    assert act(site, reader, study_id, "/resolve", htmx=False, take_over="1", **chosen).status_code == 303
    assert site.report(study_id).sections["impression"] == "Typed by the first."
    assert "report:taken_over" in site.tags(study_id=study_id)


@pytest.mark.requirement("REQ-EDIT-3")
def test_draft_signed_and_present_text_stand_beside_each_other(site, study_id, reader):
    act(site, reader, study_id, "/sections", impression="Signed words.")
    decide(site, reader, study_id, "accepted")
    page = reader.get(f"/studies/{study_id}/compare").text
    assert page.count('class="side-title"') == 2  # nothing is signed yet
    sign_preliminary(site, study_id)
    page = reader.get(f"/studies/{study_id}/compare").text
    assert page.count('class="side-title"') == 3
    assert "Signed preliminary by Maria Lund" in page
    only = reader.get(f"/studies/{study_id}/compare?with=1&with=2").text
    assert "Revision 1" in only
    assert {"Signed", "words"} <= set(" ".join(re.findall(r"<ins>([^<]+)</ins>", only)).split())
    assert reader.get(f"/studies/{study_id}/compare?with=77").status_code == 400
    assert site.report(study_id).state is ReportState.PRELIMINARY


def sign_preliminary(site: Site, study_id: UUID) -> None:
    """Sign what the report says now, as its reader with a fresh password."""
    account, report, now = site.one(UserAccount, login="radiologist"), site.report(study_id), utcnow()
    with unit_of_work(site.sessions, Actor("radiologist", "person", account.id)) as uow:
        lifecycle.sign(
            uow,
            report.id,
            state=ReportState.PRELIMINARY,
            meaning="I wrote this",
            printed_name=account.printed_name,
            authenticated_at=now,
            seen_version=report.version,
            objects=[an_object()],
            signed_at=now,
            signature_id=uuid4(),
            checked=Checked(lifecycle.text_sha256(report.sections), "1"),
        )


def test_a_signed_report_is_not_called_the_ais(site, study_id, reader, people):
    assert "AI text, not yet accepted" in reader.get(f"/studies/{study_id}").text
    decide(site, reader, study_id, "accepted")
    sign_preliminary(site, study_id)
    page = people["viewer"].get(f"/studies/{study_id}").text
    assert "AI text, not yet accepted" not in page
    assert 'class="said ai"' not in page


@pytest.mark.requirement("REQ-LABEL-1")
def test_the_draft_says_what_its_models_are_for(study_id, people):
    page = people["viewer"].get(f"/studies/{study_id}").text
    card = page.split('id="about"')[1].split("</section>")[0]
    for words in ("VILA-M3 demo", "0.1.0-demo", "Apache-2.0", "b" * 64, "Intended use", "demonstration"):
        assert words in card, words
    assert 'data-about href="' in page


@pytest.mark.parametrize("role", ["viewer", "auditor", "admin"])
def test_who_does_not_draft_changes_no_text(site, study_id, people, role):
    assert act(site, people[role], study_id, "/text/accept", section="technique").status_code == 403
    assert site.report(study_id).sections == SECTIONS
