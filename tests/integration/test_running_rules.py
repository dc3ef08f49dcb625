"""The rules tester: a dropped file, a study that is here, edited rules; hostile files end in words."""

import re
import zlib
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian
from werkzeug.test import TestResponse

from config.errors import ConfigurationError
from dashboard.running.rules import LARGEST_FILE, parse_rules
from db.models import Study
from instances.part10 import FileMeta, file_head
from tests.dashboard_support import Browser, Site, ct_study, make_site
from tests.node_support import rows


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def part10(ds: Dataset) -> bytes:
    buffer = BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def drop(browser: Browser, content: bytes, **fields: str) -> TestResponse:
    data = {"csrf_token": browser.token("/account/password"), "file": (BytesIO(content), "IM1"), **fields}
    return browser.post("/rules/test", data=data, content_type="multipart/form-data")


def verdict(answer: TestResponse) -> str:
    section = answer.text.partition('id="verdict"')[2].partition("</section>")[0]
    return " ".join(re.sub(r"<[^>]+>", " ", section).split())


def test_a_dropped_file_shows_each_rule_and_why(site: Site) -> None:
    admin = site.client("admin")
    answer = drop(admin, part10(ct_study(1)[0]), called_ae="FIRSTREAD")
    assert answer.status_code == 200
    words = verdict(answer)
    assert "Drafted by rule ct-torso" in words
    assert "Profile ct-torso" in words
    assert "✗ brain-mr modality CT is not one of MR" in words
    assert "✓ ct-torso all conditions hold" in words
    assert rows(site.sessions, Study) == []  # nothing was kept
    assert not (site.settings.data_dir / "instances").exists()
    for word in ("Halvorsen", "P-1001", "ACC-1001"):
        assert word not in answer.text
    phantom = part10(ct_study(1, StudyDescription="Daily QA")[0])
    assert "Held by rule phantoms-and-quality-control" in verdict(drop(admin, phantom))
    other = part10(ct_study(1, Modality="US")[0])
    assert "Ignored no rule matches" in verdict(drop(admin, other))


def test_a_large_file_is_taken_here_and_nowhere_else(site: Site) -> None:
    admin = site.client("admin")
    ds = ct_study(1)[0]
    ds.Rows = ds.Columns = 1500
    ds.PixelData = bytes(2 * 1500 * 1500)
    assert drop(admin, part10(ds)).status_code == 200
    assert drop(admin, bytes(LARGEST_FILE + 1)).status_code == 413
    big = {"csrf_token": admin.token("/account/password"), "key": "x" * (2 * 1024**2)}
    assert admin.post("/trace", data=big).status_code == 413


def test_hostile_files_end_in_words(site: Site) -> None:
    admin = site.client("admin")
    good = part10(ct_study(1)[0])
    script = part10(ct_study(1, StudyDescription="<script>alert(1)</script>", BodyPartExamined="B")[0])
    meta = good[: good.index(b"1.2.840.10008.1.2.1")]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = squeeze.compress(bytes(50_000_000)) + squeeze.flush()
    bomb = file_head(FileMeta("1.2.3", "1.2.4", DeflatedExplicitVRLittleEndian)) + zeros
    no_uid = ct_study(1)[0]
    unnamed = part10(no_uid).replace(
        no_uid.SeriesInstanceUID.encode(), b"../etc/passwd".ljust(64)[: len(no_uid.SeriesInstanceUID)]
    )
    for content in (b"", b"hello", bytes(200), good[:200], meta, bomb, unnamed, good[:140] + b"\xff" * 5000):
        answer = drop(admin, content)
        assert answer.status_code == 400
        assert 'id="verdict"' not in answer.text
        assert 'role="alert"' in answer.text
    answer = drop(admin, script)
    assert answer.status_code == 200
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;" in answer.text


def test_a_study_that_is_here_and_edited_rules(site: Site) -> None:
    site.receive(ct_study(1))
    admin = site.client("admin")
    assert "Drafted by rule ct-torso" in verdict(admin.submit("/rules/test", key="ACC-1001"))
    assert "study:traced" in site.tags(actor="admin")
    assert admin.submit("/rules/test", key="nobody").status_code == 400
    mine = "rules:\n  - name: mine\n    when: {modality: [CT]}\n    action: hold\n    reason: I say so\n"
    answer = admin.submit("/rules/test", modality="CT", rules=mine)
    assert "Held by rule mine with the edited rules Reason I say so" in verdict(answer)
    before = (site.settings.routing).read_bytes()
    broken = admin.submit("/rules/test", modality="CT", rules="rules: [{name: X y}]")
    assert broken.status_code == 400
    assert "rules.0.name" in broken.text
    assert site.settings.routing.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("rules: [", "line 1"),
        ("a: &a [x]\nrules: [*a, *a]", "aliases"),
        ("rules: [{name: a, when: {procedure: '('}, action: hold}]", "not a regular expression"),
        ("rules: [{name: a}]", "drafts without a profile"),
        ("rules: [{name: a, profile: x-ray}]", "known: ct-torso"),
        ("rules: []\nmore: 1", "more: Extra inputs"),
        ("x" * 300_000, "characters"),
        ("[" * 5000, "no YAML"),
    ],
)
def test_rules_that_cannot_be_used_are_refused_with_their_place(text: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        parse_rules(text, ["ct-torso"])


def test_a_form_without_its_token_and_other_roles_are_refused(site: Site) -> None:
    admin = site.client("admin")
    assert admin.post("/rules/test", data={"modality": "CT"}).status_code == 400
    for role in ("radiologist", "lead", "auditor"):
        assert site.client(role).get("/rules").status_code == 403
