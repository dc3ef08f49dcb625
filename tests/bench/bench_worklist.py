"""Server time of the worklist with 100 000 Studies, on SQLite and PostgreSQL: `make bench-worklist`.

Each request goes through the whole Flask application as a browser's would: session, permission, query, counts, page of
50 rows, audit event. The lists are those people ask for: every tab, filters, a page deep in the archive both ways,
searches for a name that is frequent, rare or unknown, the other orders, and the pulse that keeps rows alive. The
peer, measured in the same run, is the conventional way: the joined tables, sorted, by OFFSET; once for the first page
and once as deep as the page by key. Beside the time on the clock stands this process's own: where the two differ on
SQLite, the machine was busy with something else.

Options: --studies N, --repeats N, --only sqlite|postgresql.
"""

import argparse
import logging
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from sqlalchemy import Select, and_, case, select

from db.engine import migrate
from db.models import Reading, Study
from db.queries import Tab, worklist
from db.report_models import Report
from db.types import Priority, ReportState
from db.users import find_user
from tests.bench.worklist_site import fill
from tests.dashboard_support import Browser, Site, make_site
from tests.postgres import PostgresServer, find_binaries

BAR_MS = 200.0
DEEP = 90_000
PAGE = 50
SEARCHES = {"frequent name": "olsen", "rare name": "nr99999", "no such name": "zzzz", "patient ID": "P-0123"}
FILTERS = {
    "modality, rare": "tab=all&modality=NM",
    "modality, frequent": "tab=signed&modality=CT",
    "priority": "tab=signed&priority=URGENT",
    "sender": "tab=all&sender=SCANNER3",
    "reader": "tab=to_read&assigned=me",
    "nobody's": "tab=to_read&assigned=nobody",
    "seven days": "tab=all&days=7",
    "two filters": "tab=signed&modality=MR&days=30",
    "newest first": "tab=all&sort=newest",
}


def main() -> int:
    """Fill, ask, print a table for each database and the bars; 1 when one is short."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    options = parser.parse_args()
    bars: list[tuple[str, float]] = []
    folder = Path(tempfile.mkdtemp(prefix="bench-worklist-"))
    try:
        if options.only != "postgresql":
            bars.append(("sqlite", _measure(make_site(folder / "sqlite"), "sqlite", options)))
        binaries = find_binaries()
        if options.only != "sqlite" and binaries is not None:
            with PostgresServer(binaries) as server:
                server.create("worklist")
                migrate(server.url("worklist"))
                site = make_site(folder / "postgresql", server.url("worklist"))
                bars.append(("postgresql", _measure(site, "postgresql", options)))
                site.sessions.kw["bind"].dispose()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value in bars:
        _say(f"bar worklist_p95_ms_{name} {value:.1f} {BAR_MS:g} {'ok' if value < BAR_MS else 'short'}")
    return int(any(value >= BAR_MS for _, value in bars))


def _measure(site: Site, name: str, options: argparse.Namespace) -> float:
    """Return the p95 of all requests, ms."""
    with site.sessions() as db:
        account = find_user(db, "radiologist")
    assert account is not None
    began = time.perf_counter()
    fill(site.sessions.kw["bind"], account.id, options.studies)
    _say(f"{name}: {options.studies} studies made in {time.perf_counter() - began:.0f} s")
    times: list[float] = []
    own: list[float] = []
    browser = site.client("radiologist")
    for what, ask in _requests(site, browser, options.studies):
        each, spent = _timed(ask, options.repeats)
        times += each
        own += spent
        _row(what, each, spent)
    for what, ask in _conventional(site, options.studies):
        _row(f"peer: {what}", *_timed(ask, options.repeats))
    p95 = _p95(times)
    _say(f"{name}: all {len(times)} requests, p50 {statistics.median(times):.1f} ms, p95 {p95:.1f} ms")
    _say(f"{name}: this process's own time, p50 {statistics.median(own):.1f} ms, p95 {_p95(own):.1f} ms\n")
    return p95


def _requests(site: Site, browser: Browser, studies: int) -> Iterator[tuple[str, Callable[[], object]]]:
    for tab in Tab:
        yield f"tab {tab.value}", _get(browser, f"tab={tab.value}")
    for what, query in FILTERS.items():
        yield what, _get(browser, query)
    deep = _deep_cursor(site, studies)
    yield "deep page, onwards", _get(browser, f"tab=all&after={deep}")
    yield "deep page, back", _get(browser, f"tab=all&before={deep}")
    yield "pulse", _get(browser, _pulse(site), "/worklist/pulse")
    for what, words in SEARCHES.items():
        browser.submit("/worklist/search", search=words)
        yield f"search, {what}", _get(browser, "tab=all")
        yield f"search, {what}, drafted", _get(browser, "tab=to_read")
    browser.submit("/worklist/search", clear="1")


def _get(browser: Browser, query: str, path: str = "/worklist") -> Callable[[], object]:
    def ask() -> None:
        answer = browser.get(f"{path}?{query.replace('+', '%2B')}")
        if answer.status_code != 200:
            raise RuntimeError(f"{query} was answered {answer.status_code}")

    return ask


def _deep_cursor(site: Site, studies: int) -> str:
    order = (Report.urgency, Report.listed_at, Report.study_id)
    with site.sessions() as db:
        row = db.execute(select(*order).order_by(*order).offset(int(studies * DEEP / 100_000)).limit(1)).one()
    return f"{row[0]}_{row[1].isoformat()}_{row[2]}"


def _pulse(site: Site) -> str:
    with site.sessions() as db:
        shown = worklist(db, Tab.TO_READ, limit=PAGE).rows
    return "tab=to_read&shown=" + ",".join(row.study_id.hex for row in shown)


def _conventional(site: Site, studies: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """The query alone, without a page or counts around it."""
    rank = case((Reading.priority == Priority.STAT, 0), (Reading.priority == Priority.URGENT, 1), else_=2)
    query = (
        select(Study, Reading, Report)
        .join(Report, Report.study_id == Study.id)
        .join(Reading, and_(Reading.study_id == Study.id, Reading.superseded.is_(False)))
        .order_by(rank, Study.first_received_at, Study.id)
        .limit(PAGE)
    )
    at: Mapping[str, Select[Any]] = {
        "OFFSET 0 of the drafted": query.where(Report.state == ReportState.DRAFTED),
        "OFFSET 0 of all": query,
        f"OFFSET {int(studies * DEEP / 100_000)} of all": query.offset(int(studies * DEEP / 100_000)),
    }
    for what, one in at.items():
        yield what, lambda one=one: _rows(site, one)  # type: ignore[misc]


def _rows(site: Site, query: Select[Any]) -> int:
    with site.sessions() as db:
        return len(db.execute(query).all())


def _timed(ask: Callable[[], object], repeats: int) -> tuple[list[float], list[float]]:
    """Return the time on the clock and this process's own, ms each."""
    ask()  # the first of its kind compiles its statements
    times, own = [], []
    for _ in range(repeats):
        began, spent = time.perf_counter(), time.process_time()
        ask()
        times.append((time.perf_counter() - began) * 1000)
        own.append((time.process_time() - spent) * 1000)
    return times, own


def _p95(times: list[float]) -> float:
    return statistics.quantiles(times, n=20, method="inclusive")[-1]


def _row(what: str, times: list[float], own: list[float]) -> None:
    clock = f"p50 {statistics.median(times):7.1f} ms   p95 {_p95(times):7.1f} ms"
    _say(f"  {what:34} {clock}   own {statistics.median(own):7.1f} ms")


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
