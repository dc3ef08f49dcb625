"""The pages of the audit's questions: who may ask, what is recorded, and files that read back."""

import csv
import hashlib
import io
import json
import re
from uuid import UUID

import pytest
from pypdf import PdfReader
from sqlalchemy import select, text
from typer.testing import CliRunner

from audit.sealing import seal_all
from db.audit import AuditTag
from db.audit_anchor_models import AuditAnchor
from db.models import AuditEvent, Study
from db.queries.audit import ALL
from db.types import Role, utcnow
from db.uow import Actor, unit_of_work
from firstread.audit import audit_app
from tests.dashboard_support import PEOPLE, Browser, Site, ct_study, make_site

pytestmark = pytest.mark.requirement("REQ-AUDIT-6", "REQ-AUDIT-12")
FORMULA = '=HYPERLINK("http://evil.example","press")'
QUALITY = {"Q3", "Q10"}
READER = Actor("radiologist", "person")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    made = make_site(tmp_path_factory.mktemp("site"))
    study_id = made.drafted(ct_study(2))
    with unit_of_work(made.sessions, READER) as uow:
        for number in range(130):
            reason = FORMULA if number == 0 else f"– 第{number}"
            uow.audit(AuditTag.REPORT_VIEWED, study_id=study_id, detail={"reason": reason})
    return made


@pytest.fixture(scope="module")
def auditor(site: Site) -> Browser:
    return site.client("auditor")  # logs in once: more often would be too often


def events(site: Site, tag: AuditTag) -> list[AuditEvent]:
    with site.sessions() as session:
        return list(session.scalars(select(AuditEvent).where(AuditEvent.tag == tag).order_by(AuditEvent.seq)))


ACCESSES = "/audit/questions/accesses-to-a-patient"
PATIENT = {"p.patient_id": "P-1001", "p.which": "all"}


# --- who may -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [role for role in PEOPLE if role not in {Role.AUDITOR, Role.LEAD}])
def test_who_has_no_business_in_the_audit_is_refused_and_that_is_recorded(site, role):
    browser = site.client(role.value)
    before = len(events(site, AuditTag.ACCESS_REFUSED))
    assert browser.get("/audit").status_code == 403
    assert browser.get(ACCESSES).status_code == 403
    assert browser.submit(ACCESSES, **PATIENT).status_code == 403
    assert browser.submit(f"{ACCESSES}/csv", **PATIENT).status_code == 403
    assert browser.submit("/audit/verify").status_code == 403
    assert len(events(site, AuditTag.ACCESS_REFUSED)) == before + 5


def test_a_lead_asks_about_drafts_and_readers_and_nothing_else(site, auditor):
    lead = site.client("lead")
    shown = {role: set(re.findall(r">([A-Z]+\d+) · ", browser.get("/audit").text)) for role, browser in
             (("lead", lead), ("auditor", auditor))}  # fmt: skip
    assert shown == {"lead": QUALITY, "auditor": set(ALL)}
    for one in ALL.values():
        answers = {browser.get(f"/audit/questions/{one.slug}").status_code for browser in (auditor,)}
        assert answers == {200}
        status = 200 if one.name in QUALITY else 403
        assert lead.get(f"/audit/questions/{one.slug}").status_code == status, one.name
        if one.name not in QUALITY:
            assert lead.submit(f"/audit/questions/{one.slug}/json").status_code == 403
    assert lead.submit("/audit/questions/overrides").status_code == 200
    assert lead.submit("/audit/verify").status_code == 403


def test_an_unknown_question_or_format_is_not_found_or_refused(site, auditor):
    assert auditor.get("/audit/questions/everything").status_code == 404
    assert auditor.submit("/audit/questions/everything/csv").status_code == 404
    assert auditor.submit(f"{ACCESSES}/xlsx", **PATIENT).status_code == 400
    assert auditor.get(f"{ACCESSES}/csv").status_code == 405  # nothing that names a patient is in an address


# --- asking --------------------------------------------------------------------------------------------------


def test_asking_is_recorded_with_what_names_a_patient_apart(site, auditor):
    page = auditor.submit(ACCESSES, **PATIENT)
    assert page.status_code == 200
    assert "100 rows on this page, there are more" in page.text
    event = events(site, AuditTag.AUDIT_VIEWED)[-1]
    assert event.actor == "auditor"
    assert "P-1001" not in event.body
    said = event.detail
    assert (said["question"], said["rows"], said["patient"]) == ("Q2", 100, {"patient_id": "P-1001"})
    assert said["parameters"] == {"which": "all"}
    assert event.study_id is not None  # erasing the patient's data erases the name in it too


def test_a_refused_door_of_a_study_is_among_its_accesses(site, auditor):
    with site.sessions() as session:
        study_id = session.scalar(select(Study.id))
    assert site.client("admin").get(f"/studies/{study_id}").status_code == 403
    page = auditor.submit(ACCESSES, **(PATIENT | {"p.which": "failed"})).text
    assert "<code>access:refused</code>" in page
    assert ">admin</td>" in page


def test_pages_follow_each_other_without_a_gap(site, auditor):
    found: list[str] = []
    fields = dict(PATIENT)
    while True:
        page = auditor.submit(ACCESSES, **fields).text
        found += re.findall(r'<tr><td class="small numeric">(\d+)</td>', page)
        cursor = re.search(r'name="cursor" value="([^"]+)"', page)
        if cursor is None:
            break
        fields = PATIENT | {"cursor": cursor[1]}
    numbers = [int(one) for one in found]
    assert numbers == sorted(set(numbers), reverse=True)
    with site.sessions() as session:
        held = set(session.scalars(select(AuditEvent.seq).where(AuditEvent.study_id.is_not(None))))
    # what the test itself makes meanwhile comes before the first page
    assert set(numbers) <= held
    assert len(held - set(numbers)) <= len(found) // 100 + 1


@pytest.mark.parametrize(
    ("name", "fields", "parameter"),
    [
        ("accesses-to-a-patient", {}, "patient_id"),
        ("drafts-by-model", {"p.since": "<script>alert(1)</script>"}, "since"),
        ("drafts-by-model", {"p.kind": "' OR 1=1"}, "kind"),
        ("drafts-by-model", {"p.colour": "red"}, "colour"),
        ("reproduce-a-draft", {"p.draft": "../../etc/passwd"}, "draft"),
        ("signatures-in-doubt", {"p.fresh_s": "1e999"}, "fresh_s"),
        ("drafts-by-model", {"cursor": "AAAA"}, "cursor"),
    ],
)
def test_a_refused_parameter_is_named_on_its_form(site, auditor, name, fields, parameter):
    before = len(events(site, AuditTag.AUDIT_VIEWED))
    page = auditor.submit(f"/audit/questions/{name}", **fields)
    assert page.status_code == 400
    assert re.search(rf'role="alert">[^<]*{parameter}', page.text)
    assert "<script>alert" not in page.text
    assert len(events(site, AuditTag.AUDIT_VIEWED)) == before  # nothing was shown


# --- files ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(auditor: Browser) -> dict[str, bytes]:
    made = {}
    for kind in ("csv", "json", "pdf"):
        answer = auditor.submit(f"{ACCESSES}/{kind}", **(PATIENT | {"p.which": "people"}))
        assert answer.status_code == 200
        assert f'.{kind}"' in answer.headers["Content-Disposition"]
        assert "P-1001" not in answer.headers["Content-Disposition"]
        made[kind] = answer.data
    return made


@pytest.mark.requirement("REQ-AUDIT-23", "REQ-AUDIT-12")
def test_each_export_is_an_event_with_the_hash_of_the_file(site, files):
    exports = {event.detail["format"]: event for event in events(site, AuditTag.AUDIT_EXPORTED)[:3]}
    for kind, content in files.items():
        said = exports[kind].detail
        assert said["sha256"] == hashlib.sha256(content).hexdigest()
        assert said["question"] == "Q2"
        assert said["rows"] >= 130
        assert "P-1001" not in exports[kind].body


def test_the_csv_reads_back_and_no_cell_is_a_formula(files):
    rows = list(csv.reader(io.StringIO(files["csv"].decode("utf-8"), newline=""), strict=True))
    names, body = rows[0], rows[1:]
    assert names == [column.name for column in ALL["Q2"].columns]
    assert {len(row) for row in body} == {len(names)}
    reasons = [row[names.index("reason")] for row in body]
    assert f"'{FORMULA}" in reasons
    assert "– 第5" in reasons
    assert not [cell for row in body for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert files["csv"].count(b"\r\n") == len(rows)


def test_the_json_reads_back_with_question_and_circumstances(files):
    read = json.loads(files["json"])
    assert (read["question"]["name"], read["asked_by"]) == ("Q2", "auditor")
    assert read["parameters"] == {"patient_id": "P-1001", "which": "people"}
    assert read["row_count"] == len(read["rows"]) >= 130
    assert [row["seq"] for row in read["rows"]] == sorted((row["seq"] for row in read["rows"]), reverse=True)
    assert FORMULA in {row["reason"] for row in read["rows"]}
    assert UUID(read["rows"][0]["study"])
    assert set(read["log"]) == {"size", "root", "signed", "waiting"}


def test_the_pdf_says_on_every_page_what_was_asked_by_whom_and_which_page_it_is(files):
    pages = [page.extract_text() for page in PdfReader(io.BytesIO(files["pdf"])).pages]
    assert len(pages) > 2
    for number, page in enumerate(pages, 1):
        assert "Q2 Accesses to a patient or study" in " ".join(page.split())
        assert "auditor" in page
        assert "no signed head yet" in " ".join(page.split())
        assert f"Page {number} of {len(pages)}" in page
    whole = " ".join(" ".join(pages).split())
    assert "Row 1 of 1" in whole
    assert "images:viewed" in whole or "report:viewed" in whole
    assert "HIPAA" in whole


@pytest.mark.requirement("REQ-AUDIT-12")
def test_an_export_that_cannot_be_recorded_does_not_leave(site, auditor):
    stop = (
        "CREATE TRIGGER stop BEFORE INSERT ON audit_event WHEN NEW.body LIKE '%audit:exported%' "
        "BEGIN SELECT RAISE(ABORT, 'no'); END"
    )
    with site.sessions() as session:
        session.execute(text(stop))
        session.commit()
    try:
        answer = auditor.submit(f"{ACCESSES}/csv", **PATIENT)
        assert answer.status_code >= 500
        assert b"report:viewed" not in answer.data
    finally:
        with site.sessions() as session:
            session.execute(text("DROP TRIGGER stop"))
            session.commit()


# --- integrity, and the command line -------------------------------------------------------------------------


@pytest.mark.requirement("REQ-AUDIT-17")
def test_the_log_of_a_time_is_verified_from_its_page(site, auditor):
    head = seal_all(site.sessions, site.settings.key_dir)
    assert head is not None
    today = {"p.since": "today", "p.until": "today"}
    page = auditor.submit("/audit/questions/integrity", **today).text
    assert head.root.hex() in page
    assert "none is on record" in page

    good = auditor.submit("/audit/verify", **today)
    assert "every event is what was sealed" in good.text
    with site.sessions() as session:
        session.execute(text("DROP TRIGGER audit_event_no_update"))
        seq = session.scalar(select(AuditEvent.seq).where(AuditEvent.tag == AuditTag.REPORT_VIEWED).limit(1))
        body = session.scalar(text("SELECT body FROM audit_event WHERE seq = :seq").bindparams(seq=seq))
        session.execute(text("UPDATE audit_event SET body = replace(body, 'success', 'failure') WHERE seq = :seq")
                        .bindparams(seq=seq))  # fmt: skip
        session.commit()
    bad = auditor.submit("/audit/verify", **today)
    assert "the log was changed" in bad.text
    assert f"event {seq}" in bad.text
    with site.sessions() as session:
        session.execute(text("UPDATE audit_event SET body = :body WHERE seq = :seq").bindparams(body=body, seq=seq))
        session.commit()
    verdicts = events(site, AuditTag.AUDIT_VERIFIED)
    assert [(event.outcome, event.detail["holds"]) for event in verdicts] == [("success", True), ("failure", False)]
    assert verdicts[1].detail["first_bad"]["seq"] == seq
    nothing = auditor.submit("/audit/verify", **{"p.since": "-9d", "p.until": "-8d"})
    assert nothing.status_code == 400


@pytest.mark.requirement("REQ-AUDIT-23")
def test_the_command_line_asks_the_same(site, tmp_path):
    run = CliRunner()
    folder = ["--data-dir", str(site.settings.data_dir)]
    listed = run.invoke(audit_app, ["questions"])
    assert listed.exit_code == 0
    assert all(one.slug in listed.stdout for one in ALL.values())

    given = ["--set", "patient_id=P-1001", "--set", "which=people"]
    out = tmp_path / "answer.csv"
    done = run.invoke(audit_app, ["ask", "q2", *given, "--format", "csv", "--out", str(out), *folder])
    assert done.exit_code == 0, done.output
    content = out.read_bytes()
    assert hashlib.sha256(content).hexdigest() in done.stdout
    assert len(list(csv.reader(io.StringIO(content.decode())))) > 130
    said = events(site, AuditTag.AUDIT_EXPORTED)[-1]
    assert said.actor.startswith("cli:")
    assert said.detail["patient"] == {"patient_id": "P-1001"}

    printed = run.invoke(audit_app, ["ask", "drafts-by-model", *folder])
    assert json.loads(printed.stdout)["question"]["name"] == "Q1"
    assert events(site, AuditTag.AUDIT_VIEWED)[-1].detail["question"] == "Q1"
    for wrong in (["Q99"], ["Q2"], ["Q1", "--set", "x"], ["Q1", "--format", "pdf"], ["Q1", "--format", "xml"]):
        assert run.invoke(audit_app, ["ask", *wrong, *folder]).exit_code == 2, wrong


# --- what needs a person -------------------------------------------------------------------------------------


def test_a_changed_log_a_sealer_that_stands_still_and_a_full_anchor_are_problems(tmp_path):
    made = make_site(tmp_path, audit={"unsealed_alarm_s": 0.001})
    admin = made.client("admin")
    page = admin.get("/problems").text
    assert "firstread sealer running" in page  # nothing seals in this test
    assert "was changed" not in page
    with unit_of_work(made.sessions, Actor("sealer", "process")) as uow:
        uow.audit(AuditTag.AUDIT_VERIFIED, outcome="failure", object_type="audit_log", object_id="log")
        uow.session.add(AuditAnchor(size=4, kind="file", outcome="failure", target="OSError", anchored_at=utcnow()))
    page = admin.get("/problems").text
    assert "found that it was changed" in page
    assert "outside this system (file)" in page
