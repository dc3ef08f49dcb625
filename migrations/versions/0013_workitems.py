"""UPS workitems and subscriptions.

Safe while the previous release runs: all tables are new, and it writes to none of them. What its processes move in
the meantime has no event reports; a subscriber that looks sees it all the same.

Revision: 0013, after 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def _choice(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, length=16, create_constraint=True)


def _instant(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "workitem",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("state", _choice("stepstate", "SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"), nullable=False),
        sa.Column("readiness", _choice("readiness", "INCOMPLETE", "UNAVAILABLE", "READY"), nullable=False),
        sa.Column("priority", _choice("steppriority", "HIGH", "MEDIUM", "LOW"), nullable=False),
        sa.Column("transaction_uid", sa.String(length=64), nullable=False),
        sa.Column("is_ours", sa.Boolean(), nullable=False),
        sa.Column("reading_id", sa.Uuid(), nullable=True),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("worklist_label", sa.String(length=64), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=False),
        sa.Column("station", sa.String(length=16), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("patient_name", sa.String(length=324), nullable=False),
        sa.Column("accession_number", sa.String(length=16), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_by", sa.String(length=64), nullable=False),
        _instant("scheduled_at"),
        _instant("created_at"),
        _instant("modified_at"),
        _instant("finished_at", nullable=True),
        _instant("deleted_at", nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["reading_id"], ["reading.id"], name=op.f("fk_workitem_reading_id_reading")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitem")),
        sa.UniqueConstraint("uid", name=op.f("uq_workitem_uid")),
    )
    for column in (
        "accession_number", "finished_at", "modified_at", "patient_id", "scheduled_at", "state", "study_instance_uid",
    ):  # fmt: skip
        op.create_index(op.f(f"ix_workitem_{column}"), "workitem", [column])
    op.create_table(
        "reading_run",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("reading_id", sa.Uuid(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        _instant("started_at"),
        _instant("ended_at", nullable=True),
        sa.ForeignKeyConstraint(["reading_id"], ["reading.id"], name=op.f("fk_reading_run_reading_id_reading")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reading_run")),
        sa.UniqueConstraint("reading_id", "number", name=op.f("uq_reading_run_reading_id")),
        sa.UniqueConstraint("uid", name=op.f("uq_reading_run_uid")),
    )
    op.create_index(op.f("ix_reading_run_reading_id"), "reading_run", ["reading_id"])
    op.create_table(
        "workitem_subscription",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("is_subscribed", sa.Boolean(), nullable=False),
        sa.Column("deletion_lock", sa.Boolean(), nullable=False),
        sa.Column("filter", sa.JSON(), nullable=False),
        _instant("suspended_at", nullable=True),
        _instant("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitem_subscription")),
        sa.UniqueConstraint("ae_title", "uid", name=op.f("uq_workitem_subscription_ae_title")),
    )
    op.create_index(op.f("ix_workitem_subscription_uid"), "workitem_subscription", ["uid"])
    op.create_table(
        "workitem_event",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("ae_title", sa.String(length=16), nullable=False),
        sa.Column("uid", sa.String(length=64), nullable=False),
        sa.Column("event_type", _choice("eventtype", "1", "2", "3", "5"), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        _instant("created_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workitem_event")),
    )
    op.create_index(op.f("ix_workitem_event_created_at"), "workitem_event", ["created_at"])
    op.create_index("ix_workitem_event_waiting", "workitem_event", ["ae_title", "id"])


def downgrade() -> None:
    for table in ("workitem_event", "workitem_subscription", "reading_run", "workitem"):
        op.drop_table(table)
