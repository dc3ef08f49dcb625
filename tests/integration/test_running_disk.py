"""What the disk page says, against files counted by hand."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from dashboard.running.disk import Outlook
from db.models import Instance, Study
from db.queries.disk import newest_measure
from db.running_models import DiskMeasure
from db.types import utcnow
from instances.measuring import measure, measure_due
from tests.dashboard_support import Site, ct_study, make_site
from tests.node_support import rows


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, retention={"keep_days": 30, "unreported": True})


def test_the_measure_counts_what_is_there_and_is_taken_once_an_hour(site: Site) -> None:
    site.drafted(ct_study(3))
    (site.settings.data_dir / "logs" / "deep").mkdir(parents=True)
    (site.settings.data_dir / "logs" / "deep" / "node.log").write_bytes(bytes(1234))
    (site.settings.data_dir / "logs" / "link").symlink_to(site.settings.instances_dir)
    now = utcnow()
    assert measure_due(site.sessions, site.settings, now) == 2  # the log and one label map
    assert measure_due(site.sessions, site.settings, now + timedelta(minutes=59)) == 0
    with site.sessions() as db:
        found = newest_measure(db)
    assert found is not None
    images = sum(one.size_bytes for one in rows(site.sessions, Instance))
    assert found.parts["logs"] == {"bytes": 1234, "files": 1}
    assert found.parts["instances"] == {"bytes": images, "files": 3}
    assert found.parts["results"]["files"] == 1
    assert found.parts["database"]["bytes"] > 100_000
    assert found.facts["kept"] == [{"reason": "its draft is not signed", "studies": 1, "bytes": images}]
    # the first study came this moment: a rate is reckoned over an hour at least
    assert found.facts["per_day_7"] == pytest.approx(images * 24, rel=0.01)
    measure_due(site.sessions, site.settings, now + timedelta(days=31))
    assert len(rows(site.sessions, DiskMeasure)) == 1  # the old one is forgotten


def test_the_page_shows_parts_forecast_and_rules(site: Site) -> None:
    admin = site.client("admin")
    assert "The node has not measured yet" in admin.get("/disk").text
    site.drafted(ct_study(2))
    gone = site.receive(ct_study(2, AccessionNumber="ACC-7", PatientID="P-7"))
    from db import lifecycle
    from db.uow import unit_of_work
    from tests.dashboard_support import DRAFT, NODE

    with unit_of_work(site.sessions, NODE) as uow:
        lifecycle.complete(uow, site.reading_id(gone), type(DRAFT)("ignore", reason="not ours"))
    measure(site.sessions, site.settings, utcnow())
    page = admin.get("/disk").text
    for words in (
        "pixel data go 30 days after the last image",
        "its draft is not signed",
        "1 studies with",
        "ACC-7",
        "Refuses at that rate",
        "Arrived, the first hour",
        "too early for a forecast: 7 days of data are needed",
        "everything else on this disk",
    ):
        assert words in page
    assert site.client("lead").get("/disk").status_code == 403
    with site.sessions.begin() as db:
        db.execute(update(Study).values(first_received_at=utcnow() - timedelta(days=8)))
    measure(site.sessions, site.settings, utcnow())
    page = admin.get("/disk").text
    assert "too early" not in page
    assert "Arrived, the last 7 days" in page
    assert "Arrived, the first 8 days" in page
    assert "not within ten years" in page


@pytest.mark.parametrize(
    ("days", "words", "level"),
    [(None, "not within ten years", "ok"), (0.0, "now", "bad"), (0.5, "within a day", "bad"), (1.2, "in 1 day", "bad"),
     (8, "in 8 days", "warn"), (41, "in 41 days", "ok")],
)  # fmt: skip
def test_the_outlook_in_words(days: float | None, words: str, level: str) -> None:
    one = Outlook(7, 7.0, 1e9, days)
    assert (one.words, one.level) == (words, level)
