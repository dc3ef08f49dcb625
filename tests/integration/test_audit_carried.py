"""Events recorded before there was a chain: carried over, what names a patient apart, and sealed before any other."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy import select

from audit.keys import SealKeys
from audit.reading import source_of
from audit.sealing import Sealer
from audit.verify import Terms, verify
from config.settings import AuditSettings
from db.audit import AuditTag
from db.audit_record import private_holds
from db.engine import alembic_config, make_engine, make_sessions, migrate
from db.models import AuditEvent
from db.uow import Actor, unit_of_work

AT = datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC)
STUDY = uuid4()
# actor kind, tag, study, object, detail; then what of it must stand apart
ROWS: list[tuple[str, str, UUID | None, tuple[str, str], dict[str, Any], set[str]]] = [
    ("person", "audit:viewed", None, ("accession", "ACC-88412"), {"studies": [1, 2]}, {"object_id"}),
    ("process", "patient:merged", STUDY, ("patient", "PAT-9"), {"gone": "PAT-1", "stays": "PAT-9", "signed": True},
     {"gone", "stays", "object_id"}),
    ("person", "report:rejected", STUDY, ("", ""), {"reason": "Haldorsen, wrong side", "code": "side"}, {"reason"}),
    ("process", "reading:held", STUDY, ("", ""), {"reason": "no rule matched", "share": 0.25, "n": 2**60}, set()),
    ("process", "delivery:failed", STUDY, ("delivery", "7"), {"error": "Haldorsen is unknown here"}, {"error"}),
    ("person", "user:login_failed", None, ("user", ""), {"reason": "unknown login"}, set()),
]  # fmt: skip


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'before.db'}"
    empty: str = request.getfixturevalue("empty_postgres_url")
    return empty


def _former() -> sa.TableClause:
    text = ("actor", "actor_kind", "tag", "outcome", "object_type", "object_id")
    return sa.table(
        "audit_event",
        sa.column("seq", sa.BigInteger),
        sa.column("occurred_at", sa.DateTime(timezone=True)),
        sa.column("study_id", sa.Uuid),
        sa.column("detail", sa.JSON),
        *(sa.column(name, sa.String) for name in text),
    )


@pytest.mark.requirement("REQ-AUDIT-4")
def test_what_was_recorded_before_is_carried_over_and_back(url: str, tmp_path: Path) -> None:
    migrate(url, revision="0025")
    engine = make_engine(url)
    before = [
        {"seq": seq, "occurred_at": AT, "actor": "a", "actor_kind": kind, "tag": tag, "outcome": "success",
         "study_id": study, "object_type": named[0], "object_id": named[1], "detail": detail}
        for seq, (kind, tag, study, named, detail, _) in enumerate(ROWS, start=1)
    ]  # fmt: skip
    with engine.begin() as connection:
        connection.execute(sa.insert(_former()), before)
    migrate(url)
    sessions = make_sessions(engine)
    with sessions() as session:
        events = list(session.scalars(select(AuditEvent).order_by(AuditEvent.seq)))
    for event, (kind, tag, study, named, detail, apart) in zip(events[: len(ROWS)], ROWS, strict=True):
        body = json.loads(event.body)
        assert (event.occurred_at, event.actor_kind, event.tag, event.study_id) == (AT, kind, tag, study)
        assert (body["v"], set(body.get("private", {})), event.mark) == (0, apart, None)
        shown = event.detail | ({} if "object_id" in event.detail else {"object_id": event.object_id})
        assert shown == {k: str(v) if v == 2**60 else v for k, v in detail.items()} | {"object_id": named[1]}
        if apart:
            assert event.aside is not None
            assert (event.aside.study_id, private_holds(event.body, event.aside.key, event.aside.content)) == (
                study,
                True,
            )
        assert not [word for word in ("Haldorsen", "PAT-", "ACC-") if word in event.body]

    with unit_of_work(sessions, Actor("sweeper", "process")) as uow:
        uow.audit(AuditTag.AUDIT_VIEWED, object_type="accession", object_id="ACC-88412")
    keys = SealKeys(tmp_path / "keys", create=True)
    Sealer(sessions, keys, AuditSettings()).head()
    assert verify(source_of(url), Terms(keys.public())).found == {}
    engine.dispose()

    command.downgrade(alembic_config(url), "0025")
    with engine.connect() as connection:
        rows = connection.execute(select(_former()).order_by(sa.literal_column("seq"))).mappings().all()
    assert [(one["object_id"], one["study_id"]) for one in rows[:6]] == [(one[3][1], one[2]) for one in ROWS]
    assert rows[1]["detail"] == ROWS[1][4]
    engine.dispose()
