"""Templates and macros: who keeps which, what fits a study, and that nothing of them is lost."""

import re
import shutil
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import select

from db import lifecycle
from db.report_models import UserAccount
from db.types import utcnow
from db.uow import Actor, unit_of_work
from db.wording_models import Macro, ReportTemplate
from tests.dashboard_support import SECTIONS, Browser, Site, ct_study, make_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, _migrated_file: Path) -> Site:
    folder = tmp_path_factory.mktemp("wording")
    shutil.copyfile(_migrated_file, folder / "firstread.db")
    return make_site(folder, f"sqlite:///{folder / 'firstread.db'}")


@pytest.fixture(scope="module")
def people(site: Site) -> dict[str, Browser]:
    return {role: site.client(role) for role in ("lead", "radiologist", "resident")}


@pytest.fixture(autouse=True)
def nothing_kept(site: Site) -> None:
    """Each test begins with an empty page; what others kept is retired, since nothing can be deleted."""
    lead = site.one(UserAccount, login="lead").id
    with unit_of_work(site.sessions, Actor("lead", "person", lead)) as uow:
        for kind in (Macro, ReportTemplate):
            for row in uow.session.scalars(select(kind).where(kind.retired_at.is_(None))):
                row.retired_by, row.retired_at = lead, utcnow()


def kept(site: Site, kind: type[Macro] | type[ReportTemplate]) -> list[Macro | ReportTemplate]:
    with site.sessions() as db:
        return list(db.scalars(select(kind).where(kind.retired_at.is_(None))))


def template(people: dict[str, Browser], name: str, **fields: str) -> None:
    values = {"findings": "Lungs: [ ]", "technique": "CT [with/without] contrast."} | fields
    assert people["lead"].submit("/wording/templates", name=name, **values).status_code == 303


def test_a_macro_is_ones_own_and_nobody_else_sees_or_drops_it(site, people):
    mine = people["radiologist"]
    assert mine.submit("/wording/macros", word=".Normal-Chest", text="Lungs clear. [ ]").status_code == 303
    row = kept(site, Macro)[0]
    assert (row.word, row.text) == ("normal-chest", "Lungs clear. [ ]")
    assert "normal-chest" in mine.get("/wording").text
    assert "normal-chest" not in people["resident"].get("/wording").text.split("<h1>Wording")[1].split("New macro")[0]
    assert people["resident"].submit(f"/wording/macros/{row.id}/retire").status_code == 403
    assert people["lead"].submit(f"/wording/macros/{row.id}/retire").status_code == 403
    assert mine.submit(f"/wording/macros/{row.id}/retire").status_code == 303
    assert kept(site, Macro) == []
    with site.sessions() as db:
        assert db.get(Macro, row.id) is not None  # out of use, and kept
    assert site.tags(object_id=str(row.id)) == ["wording:added", "wording:retired"]


def test_a_word_is_used_once_and_again_after_it_was_retired(site, people):
    mine = people["radiologist"]
    assert mine.submit("/wording/macros", word="nl", text="One.").status_code == 303
    twice = mine.submit("/wording/macros", word="nl", text="Two.")
    assert twice.status_code == 409
    assert "is in use" in twice.text
    assert people["resident"].submit("/wording/macros", word="nl", text="Theirs.").status_code == 303
    assert people["lead"].submit("/wording/site-macros", word="nl", text="The site's.").status_code == 303
    row = next(one for one in kept(site, Macro) if one.text == "One.")
    assert mine.submit("/wording/macros", word="nl", text="Changed.", macro_id=row.id).status_code == 303
    assert {one.text for one in kept(site, Macro)} == {"Changed.", "Theirs.", "The site's."}


@pytest.mark.parametrize(
    ("word", "text"),
    [("", "x"), ("two words", "x"), ("ümlaut", "x"), ("x" * 33, "x"), ("ok", ""), ("ok", " "), ("ok", "x" * 4001)],
)
def test_a_macro_that_cannot_be_typed_or_is_too_long_is_refused(site, people, word, text):
    answer = people["radiologist"].submit("/wording/macros", word=word, text=text)
    assert answer.status_code == 400
    assert "Not kept" in answer.text
    assert kept(site, Macro) == []


def test_only_a_lead_keeps_the_sites_wording(site, people):
    for path in ("/wording/site-macros", "/wording/templates", f"/wording/templates/{uuid4()}/retire"):
        assert people["radiologist"].submit(path, word="x", text="y", name="N", findings="F").status_code == 403
    people["lead"].submit("/wording/site-macros", word="std", text="Standard.")
    row = kept(site, Macro)[0]
    assert people["radiologist"].submit(f"/wording/macros/{row.id}/retire").status_code == 403
    page = people["radiologist"].get("/wording").text
    assert "Standard." in page
    assert "/wording/templates" not in page


@pytest.mark.parametrize(
    "fields",
    [{"name": " "}, {"name": "x" * 81}, {"findings": " ", "technique": ""}, {"findings": "x" * 10_001}],
)
def test_a_template_without_name_or_text_or_with_too_much_is_refused(site, people, fields):
    values = {"name": "CT", "findings": "F", "technique": ""} | fields
    assert people["lead"].submit("/wording/templates", **values).status_code == 400
    assert kept(site, ReportTemplate) == []


def test_markup_in_wording_is_text(people):
    template(people, "<script>alert(1)</script>", findings="<img src=x onerror=alert(1)>")
    people["lead"].submit("/wording/macros", word="x", text='"><script>alert(2)</script>')
    page = people["lead"].get("/wording").text
    assert "<script>alert" not in page
    assert "<img src=x" not in page


def menu(page: str) -> tuple[list[str], list[str]]:
    """Names in the template menu: those for this procedure, and the others."""
    parts = page.split('id="template"')[1].split("</select>", maxsplit=1)[0].split("<optgroup")
    fits = [part for part in parts if "For this procedure" in part]
    others = [part for part in parts if 'label="Others"' in part]
    names = re.compile(r"<option[^>]*>([^<]+)<")
    return names.findall("".join(fits)), names.findall("".join(others))


def test_the_template_with_most_criteria_that_fit_is_proposed_first(site, people):
    template(people, "Any CT", modality="ct")
    template(people, "CT of the chest", modality="CT", body_part="chest", procedure="chest")
    template(people, "MR", modality="MR")
    template(people, "By choice only")
    template(people, "CT of the chest, angiography", modality="CT", procedure="chest angiography")
    study_id = site.drafted(ct_study(1))
    reader = people["radiologist"]
    reader.submit(f"/studies/{study_id}/review")
    fits, others = menu(reader.get(f"/studies/{study_id}").text)
    assert fits == ["CT of the chest", "Any CT"]
    assert others == ["By choice only", "CT of the chest, angiography", "MR"]
    # the draft's text stays: nothing was inserted unasked
    assert site.report(study_id).sections == SECTIONS


def test_a_template_fills_empty_sections_and_overwrites_only_when_asked(site, people):
    template(people, "CT", modality="CT", findings="Template findings: [ ]", recommendation="None.", technique="")
    study_id = site.drafted(ct_study(1))
    reader = people["radiologist"]
    reader.submit(f"/studies/{study_id}/review")
    row = kept(site, ReportTemplate)[0]

    def use(how: str) -> dict[str, str]:
        fields = {"template": row.id, "how": how, "version": site.report(study_id).version}
        assert reader.submit(f"/studies/{study_id}/text/template", htmx=True, **fields).status_code == 200
        return site.report(study_id).sections

    now = use("empty")
    assert (now["findings"], now["recommendation"]) == (SECTIONS["findings"], "None.")
    assert use("append")["findings"] == f"{SECTIONS['findings']}\nTemplate findings: [ ]"
    assert use("replace")["findings"] == "Template findings: [ ]"
    assert site.tags(tag="report:template_used", study_id=study_id) == ["report:template_used"] * 3
    assert people["lead"].submit(f"/wording/templates/{row.id}/retire").status_code == 303
    fields = {"template": row.id, "version": site.report(study_id).version}
    assert reader.submit(f"/studies/{study_id}/text/template", **fields).status_code == 400  # out of use


def test_a_report_read_from_scratch_starts_from_the_template_of_its_procedure(site, people):
    template(people, "CT", modality="CT", findings="Lungs: [ ]", technique="")
    study_id = site.drafted(ct_study(1))
    reader = people["radiologist"]
    reader.submit(f"/studies/{study_id}/review")
    account, report = site.one(UserAccount, login="radiologist"), site.report(study_id)
    with unit_of_work(site.sessions, Actor("radiologist", "person", account.id)) as uow:
        lifecycle.reject(uow, report.id, reason="wrong patient", seen_version=report.version)
    reader.submit(f"/studies/{study_id}/review")
    assert {key: text for key, text in site.report(study_id).sections.items() if text} == {"findings": "Lungs: [ ]"}
    assert "report:template_used" in site.tags(study_id=study_id)


def test_the_page_offers_a_readers_macros_their_own_before_the_sites(site, people):
    people["lead"].submit("/wording/site-macros", word="nl", text="The site's.")
    people["radiologist"].submit("/wording/macros", word="nl", text="My own.")
    study_id = site.drafted(ct_study(1))
    people["radiologist"].submit(f"/studies/{study_id}/review")
    page = people["radiologist"].get(f"/studies/{study_id}").text
    assert re.findall(r'data-macro="nl" data-text="([^"]+)"', page) == ["My own."]
