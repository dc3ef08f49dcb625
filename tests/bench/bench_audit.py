"""The audit trail at size, 10 million events on PostgreSQL and 1 million on SQLite, ten a draft: `make bench-audit`.

Three things are measured, each with the machine to itself. *Questions*: the first page of every named question, each
asked with several parameters, on a trail of that size. *Ingest*: events through the application's unit of work, by
several processes, every commit flushed to the disk, while the sealer seals them; what counts is what was sealed when
the writers stopped and the sealer had caught up. The peer in the same run writes the same facts to an ordinary table
with the same columns and indexes, no canonical body, mark or seal. *Verification*: `audit.verify` over the whole trail,
with the tree of pymerkle over the same leaves as the peer.

Options: --drafts N, --sqlite-drafts N, --seconds S (of ingest), --only postgresql|sqlite,
--parts questions,verify,ingest,
--plans (print the plan of every statement a question sends).
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

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from db.engine import make_engine, make_sessions, migrate
from db.origin import OriginKeys, keys_are_in, read_keys
from db.queries.audit import ALL, Question
from db.queries.audit.asking import ask
from tests.bench.audit_ingest import measure_ingest
from tests.bench.audit_rows import MODELS, fill_rows
from tests.bench.audit_site import EPOCH, READERS, SPAN, Site, fill_events, key_of
from tests.bench.audit_verify import measure_verification
from tests.postgres import PostgresServer, find_binaries

QUESTION_MS, INGEST, VERIFY = 500.0, 5000.0, 200_000.0
ASKED = 12  # times each
Given = Mapping[str, str]
_LONG = {"drafts-by-model", "recall", "subgroups", "timeline-model"}  # asked over all of the years


def main() -> int:
    """Fill, measure, print the tables and the bars; 1 when one is short."""
    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--drafts", type=int, default=1_000_000)
    parser.add_argument("--sqlite-drafts", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--only", choices=["sqlite", "postgresql"])
    parser.add_argument("--parts", default="questions,verify,ingest")
    parser.add_argument("--plans", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-audit-"))
    bars: list[tuple[str, float, float, bool]] = []
    try:
        keys_are_in(folder / "keys", create=True)
        keys = read_keys(folder / "keys", create=True)
        binaries = find_binaries()
        if options.only != "sqlite" and binaries is not None:
            with PostgresServer(binaries, durable=True) as server:
                server.create("audit")
                bars += _measure("postgresql", server.url("audit"), keys, folder / "keys", options)
        if options.only != "postgresql":
            bars += _measure("sqlite", f"sqlite:///{folder / 'audit.db'}", keys, folder / "keys", options)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, value, target, good in bars:
        _say(f"bar {name} {value:.1f} {target:g} {'ok' if good else 'short'}")
    return int(not all(good for *_, good in bars))


def _measure(
    kind: str, url: str, keys: OriginKeys, key_dir: Path, options: argparse.Namespace
) -> Iterator[tuple[str, float, float, bool]]:
    drafts = options.drafts if kind == "postgresql" else options.sqlite_drafts
    site = Site(drafts, keys.current, keys.keys[keys.current])
    _fill(kind, url, site)
    engine = make_engine(url)
    sessions = make_sessions(engine)
    if "questions" in options.parts:
        worst = _ask_all(kind, sessions, site, plans=options.plans)
        yield f"audit_question_p95_ms_{kind}", worst, QUESTION_MS, worst < QUESTION_MS
    if "verify" in options.parts:
        rate = measure_verification(url, key_dir, _say)
        yield f"audit_verified_per_s_{kind}", rate, VERIFY, rate >= VERIFY
    if "ingest" in options.parts:
        rate = measure_ingest(url, key_dir, options.seconds, _say)
        yield f"audit_ingest_per_s_{kind}", rate, INGEST, rate >= INGEST
    engine.dispose()


def _fill(kind: str, url: str, site: Site) -> None:
    migrate(url)
    begun = time.monotonic()
    fill_rows(url, site)
    fill_events(url, site)
    engine = make_engine(url)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE" if engine.dialect.name == "sqlite" else "VACUUM ANALYZE")
    engine.dispose()
    _say(f"{site.events} events, {site.drafts} drafts filled in {time.monotonic() - begun:.0f} s: {kind}")


# --- questions -----------------------------------------------------------------------------------------------


def given_for(question: Question, site: Site, turn: int) -> Given:
    """Return parameters of one asking: another study, reader, model or month each time; every second one narrower."""
    number = (turn * 97_001 + 13) % site.drafts
    since, last = site.at(number), site.at(site.drafts)
    model, version = MODELS[turn % len(MODELS)]
    month = {"since": f"{since:%Y-%m-%d}", "until": f"{min(since + SPAN / 22, last):%Y-%m-%d}"}
    if question.slug in _LONG:
        month = {"since": f"{EPOCH:%Y-%m-%d}", "until": f"{last:%Y-%m-%d}"}
    names = {
        "study": f"ACC{number:08d}", "accession": f"ACC{number:08d}", "draft": str(key_of("draft", number)),
        "user": f"reader{turn % READERS}", "login": f"reader{turn % READERS}",
    }  # fmt: skip
    narrower = {
        "model": model, "package": model, "version": version, "actor": f"reader{turn % READERS}",
        "reader": f"reader{turn % READERS}", "signer": f"reader{turn % READERS}", "site": f"SCANNER{turn % 12}",
    }  # fmt: skip
    known = month | (narrower if turn % 2 else {"package": model}) | {
        name: value for name, value in names.items() if any(one.name == name for one in question.parameters)
    }  # fmt: skip
    if question.slug == "events" and not turn % 2:
        known.pop("study")  # a month of everything
    return {one.name: known[one.name] for one in question.parameters if one.name in known}


def _ask_all(kind: str, sessions: sessionmaker[Session], site: Site, *, plans: bool) -> float:
    worst = 0.0
    _say(f"\n{kind}: first page, {ASKED} times each\n{'question':28} {'median ms':>10} {'p95 ms':>10} {'rows':>6}")
    for question in ALL.values():
        times, rows = [], 0
        for turn in range(ASKED + 1):
            given = given_for(question, site, turn)
            with sessions() as session:
                if plans and turn == 0:
                    _explain(session, question, given)
                begun = time.perf_counter()
                rows = max(rows, len(ask(session, question, given).rows))
            if turn:  # the first compiles
                times.append((time.perf_counter() - begun) * 1000)
        p95 = statistics.quantiles(times, n=20)[18]
        worst = max(worst, p95)
        _say(f"{question.name + ' ' + question.slug:28.28} {statistics.median(times):10.1f} {p95:10.1f} {rows:6}")
    return worst


def _explain(session: Session, question: Question, given: Given) -> None:
    """Print the plan of every statement a question sends."""
    seen: list[tuple[Any, Any]] = []
    engine = session.get_bind()

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, *_rest: Any) -> None:
        seen.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        ask(session, question, given)
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    explain: Callable[[str], str] = (
        "EXPLAIN (ANALYZE, BUFFERS) {}" if session.get_bind().dialect.name == "postgresql" else "EXPLAIN QUERY PLAN {}"
    ).format
    for statement, parameters in seen:
        _say(f"-- {question.name} {dict(given)}")
        for row in session.connection().exec_driver_sql(explain(statement), parameters):
            _say("   " + str(row[-1] if len(row) > 1 else row[0]))


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 what a benchmark is for


if __name__ == "__main__":
    sys.exit(main())
