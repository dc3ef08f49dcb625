"""Q4: what a draft was made from, by what and where, and whether all of it is still here to run it again.

One draft: its provenance record by primary key, its Study's Instances by the index over the Study, and what the
workers that are alive, the model store and this program have now. A row is one thing the record names, what it was
then, what it is now, and whether that holds. Files are not opened here: ``firstread audit reproduce`` reads and hashes
each before it runs the attempt again.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.drafting_code import drafting_code_sha256
from config.errors import RefusedInputError
from config.settings import ROOT
from db.lifecycle.draft_index import weights_digest
from db.models import Instance, ResultObject, Study
from db.package_models import Package
from db.queries.audit.questions import Answered, Answers, Cell, Column, Kind, Page, Parameter, Question, Shown
from db.report_models import Draft
from db.running_models import WorkerPresence
from db.types import PackageState

_SCHEMA = 2  # of records that can be run again (worker.provenance.SCHEMA)


@dataclass(frozen=True)
class _Thing:
    """One thing a record names; ``holds`` is None where nothing has to be the same, or nobody can tell here."""

    part: str
    name: str
    then: str
    now: str = ""
    holds: bool | None = None


def run(session: Session, answers: Answers, page: Page) -> Answered:
    """Return the record, thing by thing.

    Raises:
        RefusedInputError: there is no such draft.
    """
    draft_id = answers.uuid("draft")
    draft = session.get(Draft, draft_id)
    if draft is None:
        raise RefusedInputError("draft: there is none with this id")
    things = list(_things(session, draft))
    start = _start(page, len(things))
    shown = things[start : start + page.limit]
    end = start + len(shown)
    rows = [(one.part, one.name, one.then, one.now, one.holds) for one in shown]
    facts = _facts(draft, things) if page.is_first else []
    return Answered(rows, (end,) if end < len(things) else None, facts, draft.study_id)


def _start(page: Page, count: int) -> int:
    match page.after:
        case None:
            return 0
        case (int(start),) if 0 <= start <= count:
            return start
    raise RefusedInputError("cursor: it is not of this question")


def _facts(draft: Draft, things: Sequence[_Thing]) -> list[tuple[str, Cell]]:
    record = draft.provenance
    lost = [one for one in things if one.holds is False]
    inputs = sum(one.part in {"image", "prior"} for one in lost)
    models = sum(one.part == "model" for one in lost)
    can = "yes" if record.get("schema") == _SCHEMA and not inputs and not models else "no"
    if can == "yes" and any(one.part == "model" and one.holds is None for one in things):
        can = "yes, if its models are here: no worker that is alive has them"
    return [
        ("drafted at", draft.created_at),
        ("command", f"firstread audit reproduce {draft.id}"),
        ("can be run again", can),
        ("inputs that are gone or altered", inputs),
        ("models that are not here with the same weights", models),
        ("code and libraries are the same", not any(one.part == "code" for one in lost)),
        ("recorded as deterministic", bool(record.get("deterministic"))),
        ("record's shape", record.get("schema")),
        ("record SHA-256", hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()),
    ]


def _things(session: Session, draft: Draft) -> Iterator[_Thing]:
    record: Mapping[str, Any] = draft.provenance
    yield from _attempt(record)
    yield from _models(session, record)
    yield from _code(record)
    yield from _conversation(record)
    yield from _priors(session, record)
    yield from _images(session, draft.study_id, record)
    yield from _objects(session, draft)


def _attempt(record: Mapping[str, Any]) -> Iterator[_Thing]:
    for part in ("job", "decoding"):
        for name, value in (record.get(part) or {}).items():
            yield _Thing("attempt" if part == "job" else part, name, _said(value))


def _models(session: Session, record: Mapping[str, Any]) -> Iterator[_Thing]:
    """Yield each model with its weights then, and with those of the same version now."""
    cards = [card for row in session.scalars(select(WorkerPresence)) for card in row.models]
    names = [str(one.get("name", "")) for one in record.get("models") or ()]
    stored = {(p.name, p.version): p for p in session.scalars(select(Package).where(Package.name.in_(names)))}
    for one in record.get("models") or ():
        name, version = str(one.get("name", "")), str(one.get("version", ""))
        then = weights_digest(one.get("weights_sha256") or {})
        offered = [c for c in cards if (c.get("name"), c.get("version")) == (name, version)]
        same = [c for c in offered if weights_digest(c.get("weights_sha256") or {}) == then]
        package = stored.get((name, version))
        retired = package is not None and package.state is PackageState.RETIRED
        state = f"in the store: {package.state.value}" if package else "not in the store"
        held = "offered by a worker" if same else ("offered with other weights" if offered else "offered by no worker")
        # a package of the store may be opened by a worker that starts; without workers nobody can tell
        known = bool(offered) or retired or (bool(cards) and package is None)
        yield _Thing("model", f"{name} {version}", then, f"{held}; {state}", bool(same) if known else None)
        for file, sha256 in sorted((one.get("weights_sha256") or {}).items()):
            yield _Thing("weights", f"{name}: {file}", str(sha256))


def _code(record: Mapping[str, Any]) -> Iterator[_Thing]:
    made, machine = record.get("preprocessing") or {}, record.get("environment") or {}
    now = drafting_code_sha256()
    yield _Thing("code", "sources", str(made.get("code_sha256", "")), now, made.get("code_sha256") == now)
    lock = ROOT / "requirements.lock"
    held = hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else ""
    yield _Thing("code", "lock file", str(machine.get("lock_sha256", "")), held, machine.get("lock_sha256") == held)
    for name, value in sorted({**made, **machine}.items()):
        if name not in {"code_sha256", "lock_sha256"}:
            yield _Thing("circumstances", name, _said(value))


def _conversation(record: Mapping[str, Any]) -> Iterator[_Thing]:
    """Yield the hash of each conversation: prompts, answers and what experts replied."""
    for number, one in enumerate(record.get("conversations") or (), 1):
        canonical = json.dumps(one, sort_keys=True, ensure_ascii=False).encode()
        yield _Thing("conversation", f"turn {number}", hashlib.sha256(canonical).hexdigest())


def _priors(session: Session, record: Mapping[str, Any]) -> Iterator[_Thing]:
    for one in record.get("priors_used") or ():
        uid = str(one.get("study_instance_uid", ""))
        whole = select(Study.id).where(Study.study_instance_uid == uid, Study.pixels_deleted_at.is_(None))
        is_held = session.scalar(whole) is not None
        yield _Thing("prior", uid, "compared with", "held" if is_held else "not held", is_held)


def _images(session: Session, study_id: UUID, record: Mapping[str, Any]) -> Iterator[_Thing]:
    """Yield each image that was used with its hash then and now."""
    revision = (record.get("job") or {}).get("revision")
    query = select(Instance.sop_instance_uid, Instance.sha256, Instance.deleted_at, Instance.revision)
    held = {row.sop_instance_uid: row for row in session.execute(query.where(Instance.study_id == study_id))}
    used: Mapping[str, str] = record.get("instances_sha256") or {}
    for uid, then in sorted(used.items()):
        row = held.get(uid)
        if row is None:
            yield _Thing("image", uid, then, "not held", False)
        elif row.deleted_at is not None:
            yield _Thing("image", uid, then, f"deleted {row.deleted_at.isoformat(timespec='seconds')}", False)
        else:
            yield _Thing("image", uid, then, row.sha256, row.sha256 == then)
    for uid in sorted(record.get("instances_not_used") or ()):
        yield _Thing("image not used", uid, "", "" if uid in held else "not held")
    known = {*used, *(record.get("instances_not_used") or ())}
    for uid, row in sorted(held.items()):
        if uid not in known and revision is not None and row.revision <= revision:
            yield _Thing("image", uid, "not in the record", row.sha256, False)


def _objects(session: Session, draft: Draft) -> Iterator[_Thing]:
    query = select(ResultObject).where(ResultObject.draft_id == draft.id).order_by(ResultObject.created_at)
    recorded = {one.get("sop_instance_uid"): one.get("sha256") for one in draft.provenance.get("objects") or ()}
    for made in session.scalars(query):
        then = recorded.get(made.sop_instance_uid)
        yield _Thing(
            "object", f"{made.kind} {made.sop_instance_uid}", str(then or ""), made.sha256,
            None if then is None else then == made.sha256,
        )  # fmt: skip


def _said(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


QUESTIONS = (
    Question(
        name="Q4",
        slug="reproduce-a-draft",
        title="What a draft was made from",
        asks="From what, by what and where was this draft made, and is all of it here to run it again?",
        source="EU MDR Annex I 17.1; EU AI Act Art. 12; 21 CFR 11.10(b)",
        parameters=(Parameter("draft", Kind.UUID, "Draft id", required=True, longest=36),),
        columns=(
            Column("part", "Part"),
            Column("name", "Name", Shown.CODE),
            Column("then", "Recorded", Shown.CODE),
            Column("now", "Now", Shown.CODE),
            Column("holds", "Is the same", Shown.YES_NO),
        ),
        run=run,
    ),
)
