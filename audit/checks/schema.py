"""Whether the database itself still keeps the log as it was made: generated columns, and the triggers that guard it."""

from audit.checks.segment import Problem
from audit.reading import Reader

# column of audit_event -> what it is read from in the body
GENERATED = {
    "actor": "actor",
    "actor_kind": "kind",
    "user_id": "user",
    "tag": "tag",
    "outcome": "outcome",
    "study_id": "study_id",
    "reading_id": "reading_id",
    "report_id": "report_id",
    "object_type": "object_type",
    "object_id": "object_id",
}
_WRITTEN_ONCE = ("audit_anchor", "audit_archive", "audit_erasure", "audit_head", "audit_node", "audit_seal")
# (table, trigger) -> words its definition must have
SQLITE = {
    **{
        (table, f"{table}_no_{act}"): f"before {act} on {table} begin select raise(abort"
        for table in _WRITTEN_ONCE
        for act in ("update", "delete")
    },
    ("audit_event", "audit_event_no_update"): "before update on audit_event begin select raise(abort",
    ("audit_event", "audit_event_no_delete"): "before delete on audit_event when not exists (select 1 from audit_seal",
    ("audit_event", "audit_event_waits"): "after insert on audit_event begin insert into audit_pending",
    ("audit_private", "audit_private_no_update"): "before update on audit_private begin select raise(abort",
    (
        "audit_private",
        "audit_private_no_delete",
    ): "before delete on audit_private when not exists (select 1 from audit_e",
}
# (table, trigger) -> the function it calls, and bits of pg_trigger.tgtype:
# 1 row, 2 before, 4 insert, 8 delete, 16 update, 32 truncate
POSTGRESQL = {
    **{(table, "append_only"): ("refuse_change", 58) for table in _WRITTEN_ONCE},
    ("audit_event", "append_only"): ("refuse_change", 19),
    ("audit_event", "append_only_whole"): ("refuse_change", 34),
    ("audit_event", "archived_only"): ("audit_only_archived", 11),
    ("audit_event", "audit_event_waits"): ("audit_wait", 4),
    ("audit_private", "append_only"): ("refuse_change", 50),
    ("audit_private", "erased_only"): ("audit_only_erased", 11),
}
_SAYS = {  # function -> words that its source must have, in this order, and nothing that lets it do otherwise
    "refuse_change": ("begin raise exception",),
    "audit_wait": ("insert into audit_pending", "from fresh"),
    "audit_only_archived": ("begin if exists", "audit_archive", "return old", "raise exception"),
    "audit_only_erased": ("begin if exists", "audit_erasure", "return old", "raise exception"),
}


def schema_problems(reader: Reader, dialect: str) -> list[Problem]:
    """Return what is not as the migrations made it."""
    if dialect == "postgresql":
        told = [*_columns_postgresql(reader), *_triggers_postgresql(reader), *_functions_postgresql(reader)]
    else:
        told = [*_columns_sqlite(reader), *_triggers_sqlite(reader)]
    return [Problem("schema", -1, -1, what) for what in told]


def _columns_sqlite(reader: Reader) -> list[str]:
    stored = {row[1]: row[6] for row in reader.ask("PRAGMA table_xinfo('audit_event')")}
    made = _plain(str(reader.ask("SELECT sql FROM sqlite_master WHERE name = 'audit_event' AND type = 'table'")[0][0]))
    return [
        f"the column {column} of audit_event is not read from the body"
        for column, key in GENERATED.items()
        if stored.get(column) != 3 or f"json_extract(body, '$.{key}')" not in _column(made, column)
    ]


def _column(made: str, column: str) -> str:
    """Return one column's own words in a table's definition."""
    start = made.find(f" {column} ")
    end = made.find(" stored", start)
    return made[start:end] if 0 <= start < end else ""


def _triggers_sqlite(reader: Reader) -> list[str]:
    rows = reader.ask(
        "SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name LIKE 'audit_%'"
    )
    held = {(table, name): _plain(made) for table, name, made in rows}
    return [
        f"the trigger {name} of {table} is not there, or not as it was made"
        for (table, name), words in SQLITE.items()
        if words not in held.get((table, name), "")
    ]


def _columns_postgresql(reader: Reader) -> list[str]:
    rows = reader.ask(
        "SELECT a.attname, a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid) FROM pg_attribute a "
        "LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum "
        "WHERE a.attrelid = 'audit_event'::regclass AND a.attnum > 0 AND NOT a.attisdropped"
    )
    held = {name: (kind, made or "") for name, kind, made in rows}
    return [
        f"the column {column} of audit_event is not read from the body"
        for column, key in GENERATED.items()
        if held.get(column, ("", ""))[0] != "s" or f"(body)::jsonb ->> '{key}'::text" not in held[column][1]
    ]


def _triggers_postgresql(reader: Reader) -> list[str]:
    rows = reader.ask(
        "SELECT t.tgrelid::regclass::text, t.tgname, p.proname, t.tgtype::int, t.tgenabled::text "
        "FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid WHERE NOT t.tgisinternal"
    )
    held = {(table.split(".")[-1], name): (function, kind, on) for table, name, function, kind, on in rows}
    told = [
        f"the trigger {name} of {table} is not there, or not as it was made"
        for (table, name), (function, kind) in POSTGRESQL.items()
        if held.get((table, name), ("", 0, ""))[:2] != (function, kind)
    ]
    off = [
        f"the trigger {name} of {table} is switched off"
        for (table, name), (_, _, on) in held.items()
        if table.startswith("audit_") and on not in ("O", "A")
    ]
    return told + off


def _functions_postgresql(reader: Reader) -> list[str]:
    rows = reader.ask("SELECT proname, prosrc FROM pg_proc WHERE proname = ANY(?)", [list(_SAYS)])
    held = {name: _plain(source) for name, source in rows}
    return [
        f"the function {name} is not as it was made"
        for name, words in _SAYS.items()
        if not _in_order(held.get(name, ""), words)
    ]


def _in_order(source: str, words: tuple[str, ...]) -> bool:
    at = 0
    for word in words:
        at = source.find(word, at)
        if at < 0:
            return False
        at += len(word)
    return True


def _plain(made: str) -> str:
    """Return SQL in lower case, with one space between words."""
    return " ".join(made.lower().split())
