"""Studies that are being received: their timers on the worklist and at the command line, and Process now."""

import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import update

from config.routing import RuleBook, load_rules
from config.settings import ROOT
from db.lifecycle import expectations
from db.models import Study
from db.types import ExpectationSource, ExpectationState, ReadingState, utcnow
from db.uow import Actor, unit_of_work
from dicom_node.completion import Completion
from tests.dashboard_support import NODE, Site, ct_study, make_site

RULES = RuleBook(load_rules(ROOT / "config" / "routing.yaml"))


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url)


def receiving(site: Site, *, here: int = 5, announced: int = 0, quiet_s: float = 60.0, **changes: str) -> UUID:
    """A study of which some images are here and more may have been announced."""
    images = ct_study(max(here, announced), **changes)
    study_id = site.receive(images[:here])
    with unit_of_work(site.sessions, NODE) as uow:
        uow.session.execute(update(Study).where(Study.id == study_id).values(quiet_s=quiet_s))
    if announced:
        with unit_of_work(site.sessions, Actor("CT1", "peer")) as uow:
            expectations.announce(
                uow,
                source=ExpectationSource.STEP,
                object_uid=f"{images[0].StudyInstanceUID}.9",
                study_uids=[str(images[0].StudyInstanceUID)],
                state=ExpectationState.COMPLETED,
                instances=[str(one.SOPInstanceUID) for one in images],
            )
    return study_id


def sweep(site: Site, seconds: float) -> int:
    return Completion(site.sessions, RULES).sweep(utcnow() + timedelta(seconds=seconds))


def words(page: str) -> list[str]:
    """What the page says of each timer."""
    cells = re.findall(r'data-timer="[^"]+">(.*?)</div>', page, re.DOTALL)
    plain = (re.sub(r"<[^>]+>", "", cell) for cell in cells)
    return [" ".join(text.split()) for text in plain]


def test_the_worklist_says_what_each_study_waits_for_also_without_a_script(site: Site) -> None:
    receiving(site, here=5, announced=8)
    receiving(site, here=2, PatientName="Nilsen^Kari", AccessionNumber="ACC-2")
    browser = site.client("radiologist")
    page = browser.get("/worklist?tab=processing").text
    said = words(page)
    assert re.fullmatch(
        r"waits for 3 of 8 Instances announced by MPPS, at the latest [\d:]+ \(in (9|10) min \d\d s\) 5 of 8 received",
        said[0],
    )
    assert re.fullmatch(r"complete in [56]\d s 2 received", said[1])
    assert page.count("Process now") == 2
    pulse = re.search(r'hx-get="(/worklist/pulse[^"]+)"', page)
    assert pulse is not None
    news = browser.get(pulse[1].replace("&amp;", "&")).text
    assert 'hx-swap-oob="true"' in news
    assert [text[:20] for text in words(news)] == [text[:20] for text in said]


def test_a_person_has_a_study_processed_now(site: Site) -> None:
    study_id = receiving(site, here=2, announced=4, quiet_s=600)
    browser = site.client("radiologist")
    assert sweep(site, 0) == 0
    answer = browser.submit(f"/worklist/studies/{study_id}/complete")
    assert answer.headers["Location"] == "/worklist?tab=processing"
    assert words(browser.get("/worklist?tab=processing").text) == ["complete now 2 of 4 received"]
    assert sweep(site, 0) == 1
    assert site.tags(tag="study:complete_now", actor="radiologist") == ["study:complete_now"]
    assert browser.submit(f"/worklist/studies/{study_id}/complete").status_code == 409
    page = browser.get("/worklist?tab=processing").text
    assert "Process now" not in page
    assert "Waiting for AI" in page


def test_a_study_nobody_sent_is_not_processed(site: Site) -> None:
    browser = site.client("radiologist")
    assert browser.submit("/worklist/studies/00000000-0000-0000-0000-000000000001/complete").status_code == 409


@pytest.mark.requirement("REQ-RECV-7")
def test_the_radiologist_is_told_what_a_study_was_read_without(site: Site) -> None:
    study_id = receiving(site, here=2, announced=4, quiet_s=1)
    assert sweep(site, 11) == 1
    page = site.client("radiologist").get(f"/studies/{study_id}").text
    assert "The study may be incomplete." in page
    assert "2 of 4 Instances announced by MPPS" in page
    whole = receiving(site, here=2, quiet_s=1, AccessionNumber="ACC-2")
    assert sweep(site, 11) == 1
    assert "may be incomplete" not in site.client("radiologist").get(f"/studies/{whole}").text
    with unit_of_work(site.sessions, Actor("ARCHIVE", "peer")) as uow:  # it is said when the study was read already
        expectations.announce(
            uow,
            source=ExpectationSource.NOTICE,
            object_uid="1.2.9",
            study_uids=[site.one(Study, id=whole).study_instance_uid],
            state=ExpectationState.COMPLETED,
            instances=["1.2.9.1", "1.2.9.2", "1.2.9.3"],
        )
    page = site.client("radiologist").get(f"/studies/{whole}").text
    assert "3 of 3 Instances announced by instance availability notification" in page


def test_what_was_fetched_for_comparison_waits_for_nobody(site: Site) -> None:
    study_id = receiving(site, here=1)
    with unit_of_work(site.sessions, NODE) as uow:
        uow.session.execute(update(Study).values(is_prior=True))
    browser = site.client("admin")
    assert "fetched for comparison; complete in" in " ".join(words(browser.get("/worklist?tab=all").text))
    assert words(browser.get("/worklist?tab=processing").text) == []
    assert sweep(site, 61) == 1
    page = browser.get("/worklist?tab=all").text
    assert "Process again" not in page
    assert "fetched for comparison" in page
    assert browser.submit(f"/problems/readings/{site.reading_id(study_id)}/again").status_code == 409


def firstread(site: Site, *given: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "FIRSTREAD_DATA_DIR": str(site.settings.data_dir),
        "FIRSTREAD_DATABASE_URL": site.settings.database,
        "COLUMNS": "200",
    }
    command = [sys.executable, "-m", "firstread", "node", "waiting", *given]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


def test_the_command_line_lists_the_same_timers(site: Site) -> None:
    receiving(site, here=5, announced=8)
    receiving(site, here=2, AccessionNumber="ACC-2")
    done = receiving(site, here=1, quiet_s=0.1, AccessionNumber="ACC-3")
    assert sweep(site, 1) == 1
    assert site.one(Study, id=done).accession_number == "ACC-3"
    run = firstread(site, "--json")
    assert run.returncode == 0, run.stderr
    rows = {row["accession_number"]: row for row in json.loads(run.stdout)}
    assert set(rows) == {"ACC-1001", "ACC-2"}
    waits = rows["ACC-1001"]
    assert (waits["received"], waits["expected"], waits["expected_by"]) == (5, 8, "mpps")
    assert waits["waits_for"] == ["3 of 8 Instances announced by MPPS"]
    assert 500 < waits["seconds_left"] <= 600
    assert rows["ACC-2"]["waits_for"] == []
    assert waits["quiet_until"] < waits["latest_at"]
    table = firstread(site).stdout
    assert "ACC-2" in table
    assert "8 (mpps)" in table
    assert site.reading_id(done)
    assert site.tags(tag="worklist:viewed") == ["worklist:viewed"] * 2
    assert ReadingState.RECEIVING.value not in table
