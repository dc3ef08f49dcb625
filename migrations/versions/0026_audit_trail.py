"""The audit log becomes a chain: canonical bodies, columns read out of them, what is sealed, the tree and its heads.

Safe while the previous release runs: it is not while it writes, since it inserts into columns that the database
computes from now on; stop its processes first, as `firstread up` and the container entry points do. Rows recorded
before are carried over with bodies of version 0 and no mark; they wait to be sealed first, before any other.

Revision: 0026
"""

import hmac
import json
import secrets
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import rfc8785
import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# (column, path in the body, length; 0 for a UUID that may be absent), read out by the database itself
_READ = (
    ("actor", ("actor",), 64),
    ("actor_kind", ("kind",), 16),
    ("user_id", ("user",), 0),
    ("tag", ("tag",), 64),
    ("outcome", ("outcome",), 16),
    ("study_id", ("study_id",), 0),
    ("reading_id", ("reading_id",), 0),
    ("report_id", ("report_id",), 0),
    ("object_type", ("object_type",), 32),
    ("object_id", ("object_id",), 64),
)
_INDEXES = (
    ("ix_audit_event_occurred_at", "occurred_at"),
    ("ix_audit_event_study_id", "study_id, seq"),
    ("ix_audit_event_tag", "tag, seq"),
    ("ix_audit_event_actor", "actor, seq"),
    ("ix_audit_event_reading_id", "reading_id"),
    ("ix_audit_event_object_id", "object_id, seq"),
)
_FORMER = ("occurred_at", "reading_id", "study_id", "tag")  # indexes of one column, before
_GUARDED = ("audit_event", "audit_seal", "audit_node", "audit_head")  # and what changes nothing in audit_private
# what stands apart from now on, as db.audit_record had it when this was written
_NAMES = frozenset(("accession", "accession_number", "filler", "filters", "gone", "object_id", "patient", "patient_id",
                    "patient_name", "placer", "stays"))  # fmt: skip
_TEXTS = frozenset(("after", "answer", "before", "comment", "instruction", "note", "question", "reached", "sentence",
                    "text", "what", "words"))  # fmt: skip
_NAMING = frozenset(("accession", "patient"))
_OF_PATIENTS = frozenset(("expectation", "instance", "message", "order", "quarantined", "workitem"))
_REPEATING = frozenset(("commitment", "delivery", "notice", "prior", "workitem"))
_AHEAD = 3  # months that have a partition before they begin


def upgrade() -> None:
    """Make the tables, carry the rows over, and guard them."""
    op.execute("ALTER TABLE audit_event RENAME TO audit_event_before")
    postgresql = op.get_context().dialect.name == "postgresql"
    _drop_indexes()
    if postgresql:
        op.execute("ALTER TABLE audit_event_before RENAME CONSTRAINT pk_audit_event TO pk_audit_event_before")
        _events_postgresql()
    else:
        _events_sqlite()
    _others(postgresql)
    _carry_over()
    op.execute("DROP TABLE audit_event_before")
    (_guard_postgresql if postgresql else _guard_sqlite)()


def downgrade() -> None:
    """Put the rows back into the columns they had; the chain is lost."""
    op.create_table(
        "audit_event_before",
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("actor_kind", sa.String(length=16), nullable=False),
        sa.Column("tag", sa.String(length=64), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=True),
        sa.Column("reading_id", sa.Uuid(), nullable=True),
        sa.Column("report_id", sa.Uuid(), nullable=True),
        sa.Column("object_type", sa.String(length=32), nullable=False),
        sa.Column("object_id", sa.String(length=64), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("prev_hash", sa.String(length=64), nullable=True),
        sa.Column("hash", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_audit_event_before"),
    )
    _put_back()
    for table in ("audit_head", "audit_node", "audit_seal", "audit_pending", "audit_private", "audit_event"):
        op.drop_table(table)
    op.execute("ALTER TABLE audit_event_before RENAME TO audit_event")
    if op.get_context().dialect.name == "postgresql":
        for function in ("audit_wait()", "audit_partition(date)"):
            op.execute(f"DROP FUNCTION {function}")
        op.execute("ALTER TABLE audit_event RENAME CONSTRAINT pk_audit_event_before TO pk_audit_event")
        last = "coalesce(max(seq), 0) + 1, false) FROM audit_event"
        op.execute(f"SELECT setval(pg_get_serial_sequence('audit_event', 'seq'), {last}")
        _append_only_before_postgresql()
    else:
        for act in ("UPDATE", "DELETE"):
            _refuse_sqlite("audit_event", act)
    for column in _FORMER:
        op.create_index(f"ix_audit_event_{column}", "audit_event", [column])


def _drop_indexes() -> None:
    for column in _FORMER:
        op.drop_index(f"ix_audit_event_{column}")


def _events_sqlite() -> None:
    read = ", ".join(
        f"{name} CHAR(32) GENERATED ALWAYS AS (replace(json_extract(body, '$.{path[0]}'), '-', '')) STORED"
        if not length
        else f"{name} VARCHAR({length}) NOT NULL "
        f"GENERATED ALWAYS AS (coalesce(json_extract(body, '$.{path[0]}'), '')) STORED"
        for name, path, length in _READ
    )
    op.execute(
        "CREATE TABLE audit_event (seq INTEGER NOT NULL, occurred_at DATETIME NOT NULL, body TEXT NOT NULL, "
        f"mark VARCHAR(96), {read}, CONSTRAINT pk_audit_event PRIMARY KEY (seq))"
    )
    _make_indexes()


def _events_postgresql() -> None:
    read = ", ".join(
        f"{name} UUID GENERATED ALWAYS AS ((body::jsonb ->> '{path[0]}')::uuid) STORED"
        if not length
        else f"{name} VARCHAR({length}) NOT NULL "
        f"GENERATED ALWAYS AS (coalesce(body::jsonb ->> '{path[0]}', '')) STORED"
        for name, path, length in _READ
    )
    op.execute("CREATE SEQUENCE audit_event_seq AS BIGINT")
    op.execute(
        "CREATE TABLE audit_event (seq BIGINT NOT NULL DEFAULT nextval('audit_event_seq'), "
        f"occurred_at TIMESTAMPTZ NOT NULL, body TEXT NOT NULL, mark VARCHAR(96), {read}, "
        "CONSTRAINT pk_audit_event PRIMARY KEY (seq, occurred_at)) PARTITION BY RANGE (occurred_at)"
    )
    op.execute("ALTER SEQUENCE audit_event_seq OWNED BY audit_event.seq")
    op.execute("CREATE TABLE audit_event_other PARTITION OF audit_event DEFAULT")  # no instant is ever refused
    _make_indexes()
    op.execute("""
        CREATE FUNCTION audit_partition(month date) RETURNS boolean LANGUAGE plpgsql AS $$
        DECLARE
            first date := date_trunc('month', month)::date;
            made text := 'audit_event_' || to_char(first, 'YYYY_MM');
        BEGIN
            IF to_regclass(made) IS NOT NULL THEN
                RETURN false;
            END IF;
            EXECUTE format('CREATE TABLE %I PARTITION OF audit_event FOR VALUES FROM (%L) TO (%L)', made,
                first::text || ' 00:00:00+00', (first + interval '1 month')::date::text || ' 00:00:00+00');
            EXECUTE format('CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON %I '
                'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', made);
            RETURN true;
        END $$""")
    for month in _months():
        op.execute(sa.text("SELECT audit_partition(:month)").bindparams(month=month))


def _months() -> Iterator[date]:
    """Yield the months that rows are in, and those to come."""
    oldest = op.get_bind().execute(sa.text("SELECT min(occurred_at) FROM audit_event_before")).scalar()
    now = datetime.now(UTC)
    at = (oldest or now).date().replace(day=1)
    last = (now.year * 12 + now.month - 1) + _AHEAD
    while at.year * 12 + at.month - 1 <= last:
        yield at
        at = date(at.year + at.month // 12, at.month % 12 + 1, 1)


def _make_indexes() -> None:
    for name, columns in _INDEXES:
        op.execute(f"CREATE INDEX {name} ON audit_event ({columns})")


def _others(postgresql: bool) -> None:
    op.create_table(
        "audit_private",
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=True),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_private")),
    )
    op.create_index(op.f("ix_audit_private_study_id"), "audit_private", ["study_id"])
    op.create_table(
        "audit_pending",
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_pending")),
    )
    op.create_table(
        "audit_seal",
        sa.Column("position", _BIG, autoincrement=False, nullable=False),
        sa.Column("seq", _BIG, nullable=False),
        sa.Column("occurred_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("leaf", sa.LargeBinary(length=32), nullable=False),
        sa.Column("chain", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_audit_seal")),
    )
    op.create_index("ix_audit_seal_seq", "audit_seal", ["seq"], unique=True)
    op.create_table(
        "audit_node",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", _BIG, autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name=op.f("pk_audit_node")),
    )
    op.create_table(
        "audit_head",
        sa.Column("size", _BIG, autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(length=32), nullable=False),
        sa.Column("chain", sa.LargeBinary(length=32), nullable=False),
        sa.Column("signed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("key_name", sa.String(length=64), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_audit_head")),
    )
    op.create_index(op.f("ix_audit_head_signed_at"), "audit_head", ["signed_at"])
    if postgresql:
        op.execute("""
            CREATE FUNCTION audit_wait() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                INSERT INTO audit_pending (seq, occurred_at) SELECT seq, occurred_at FROM fresh;
                RETURN NULL;
            END $$""")
        op.execute(
            "CREATE TRIGGER audit_event_waits AFTER INSERT ON audit_event REFERENCING NEW TABLE AS fresh "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_wait()"
        )
    else:
        op.execute(
            "CREATE TRIGGER audit_event_waits AFTER INSERT ON audit_event BEGIN "
            "INSERT INTO audit_pending (seq, occurred_at) VALUES (NEW.seq, NEW.occurred_at); END"
        )


def _carry_over() -> None:
    rows = op.get_bind().execute(sa.text("SELECT * FROM audit_event_before ORDER BY seq"))
    made = sa.table(
        "audit_event",
        sa.column("seq", sa.BigInteger),
        sa.column("occurred_at", sa.DateTime(timezone=True)),
        sa.column("body", sa.Text),
    )
    aside = sa.table(
        "audit_private",
        sa.column("seq", sa.BigInteger),
        sa.column("study_id", sa.Uuid),
        sa.column("key", sa.String),
        sa.column("content", sa.JSON),
    )
    while chunk := rows.mappings().fetchmany(1000):
        carried = [_carried(row) for row in chunk]
        op.bulk_insert(made, [event for event, _ in carried])
        if apart := [private for _, private in carried if private["content"]]:
            op.bulk_insert(aside, apart)
    if op.get_context().dialect.name == "postgresql":
        op.execute("SELECT setval('audit_event_seq', coalesce(max(seq), 0) + 1, false) FROM audit_event")


def _carried(row: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a row as an event, and what of it stands apart."""
    at = row["occurred_at"]
    at = datetime.fromisoformat(at) if isinstance(at, str) else at
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    detail = row["detail"]
    detail = json.loads(detail) if isinstance(detail, str) else detail
    words = {"actor": row["actor"], "kind": row["actor_kind"], "tag": row["tag"], "outcome": row["outcome"]}
    words |= {name: _uuid(row[name]) for name in ("study_id", "reading_id", "report_id") if row[name]}
    words |= {name: row[name] for name in ("object_type", "object_id") if row[name]}
    words, detail = _clean(words), _clean(detail or {})
    if row["object_type"] in _NAMING and row["object_id"]:
        detail["object_id"] = words.pop("object_id")
    names = [name for name, value in detail.items() if value not in ("", None) and _stands_apart(name, row)]
    apart = {name: detail.pop(name) for name in names}
    key = secrets.token_bytes(32)
    body = {"v": 0, "at": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), **words, **({"detail": detail} if detail else {})}
    if apart:
        told = {name: rfc8785.dumps([name, value]) for name, value in apart.items()}
        body["private"] = {name: hmac.digest(key, one, "sha256").hex() for name, one in told.items()}
    event = {"seq": row["seq"], "occurred_at": at, "body": rfc8785.dumps(body).decode("utf-8")}
    study_id = UUID(words["study_id"]) if "study_id" in words else None
    return event, {"seq": row["seq"], "study_id": study_id, "key": key.hex(), "content": apart}


def _stands_apart(name: str, row: Any) -> bool:
    if name in _NAMES:
        return True
    if not (row["study_id"] or row["reading_id"] or row["report_id"] or row["object_type"] in _OF_PATIENTS):
        return False
    ours = row["actor_kind"] == "process" and row["tag"].partition(":")[0] not in _REPEATING
    return name in _TEXTS or (name in {"error", "reason"} and not ours)


def _clean(body: dict[str, Any]) -> dict[str, Any]:
    # text that no database or UTF-8 can hold was never accepted by PostgreSQL; SQLite took it
    clean: dict[str, Any] = json.loads(json.dumps(body).replace("\\u0000", "\\ufffd"), parse_int=_number)
    return clean


def _number(digits: str) -> int | str:
    return int(digits) if abs(int(digits)) <= 2**53 - 1 else digits


def _uuid(value: Any) -> str:
    text = str(value).replace("-", "")
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _put_back() -> None:
    rows = op.get_bind().execute(
        sa.text("SELECT e.seq, e.occurred_at, e.body, p.content FROM audit_event e "
                "LEFT JOIN audit_private p ON p.seq = e.seq ORDER BY e.seq")
    )  # fmt: skip
    before = sa.table(
        "audit_event_before",
        sa.column("seq", sa.BigInteger),
        sa.column("occurred_at", sa.DateTime(timezone=True)),
        *(sa.column(name, sa.Uuid if not length else sa.String) for name, _, length in _READ if name != "user_id"),
        sa.column("detail", sa.JSON),
    )
    while chunk := rows.mappings().fetchmany(1000):
        op.bulk_insert(before, [_former(row) for row in chunk])


def _former(row: Any) -> dict[str, Any]:
    body = json.loads(row["body"])
    at = datetime.strptime(body["at"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    content = row["content"] or {}
    content = json.loads(content) if isinstance(content, str) else content
    words = {
        name: body.get(path[0], "") if length else (UUID(body[path[0]]) if path[0] in body else None)
        for name, path, length in _READ
        if name != "user_id"
    }
    aside = dict(content)
    words["object_id"] = words["object_id"] or str(aside.pop("object_id", ""))
    return {"seq": row["seq"], "occurred_at": at, **words, "detail": {**body.get("detail", {}), **aside}}


def _refuse_sqlite(table: str, act: str) -> None:
    op.execute(
        f"CREATE TRIGGER {table}_no_{act.lower()} BEFORE {act} ON {table} "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    )


def _guard_sqlite() -> None:
    for table in _GUARDED:
        for act in ("UPDATE", "DELETE"):
            _refuse_sqlite(table, act)
    _refuse_sqlite("audit_private", "UPDATE")


def _guard_postgresql() -> None:
    # rows, so that it holds on every partition too; a whole table only as a statement
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_event "
        "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
    )
    for table in ("audit_event", "audit_event_other"):
        op.execute(
            f"CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    for table in _GUARDED[1:]:
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR TRUNCATE ON audit_private "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )


def _append_only_before_postgresql() -> None:
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_event "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
