"""Critical results: alerts, who was told of them, and the notices that are sent.

Safe while the previous release runs: all tables are new, and it writes to none of them. What its workers draft in the
meantime raises the priority as before and opens no alert.

Revision: 0021, after 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

WRITTEN_ONCE = ("critical_communication",)
_OPEN = sa.text("state IN ('SUSPECTED', 'CONFIRMED')")


def _choice(name: str, *values: str) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, length=16, create_constraint=True)


def _instant(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, length: int) -> sa.Column[object]:
    return sa.Column(name, sa.String(length=length), nullable=False)


def _refers(table: str, column: str, to: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{to}.id"], name=op.f(f"fk_{table}_{column}_{to}"))


def upgrade() -> None:
    _alerts()
    _communications()
    _notices()
    for table in WRITTEN_ONCE:
        _write_once(table)


def downgrade() -> None:
    for table in ("critical_notice", "critical_communication", "critical_alert"):
        op.drop_table(table)  # its indexes and guards go with it


def _alerts() -> None:
    op.create_table(
        "critical_alert",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("finding_id", sa.Uuid(), nullable=True),
        _text("label", 200),
        _text("found_by", 64),
        sa.Column("category", sa.Integer(), nullable=False),
        sa.Column(
            "state", _choice("alertstate", "SUSPECTED", "CONFIRMED", "COMMUNICATED", "DISMISSED"), nullable=False
        ),
        _text("image_set_sha256", 64),
        sa.Column("opened_by", sa.Uuid(), nullable=True),
        _instant("opened_at"),
        sa.Column("confirmed_by", sa.Uuid(), nullable=True),
        _instant("confirmed_at", nullable=True),
        sa.Column("closed_by", sa.Uuid(), nullable=True),
        _instant("closed_at", nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        _instant("clock_at"),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("noticed_level", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        _refers("critical_alert", "study_id", "study"),
        _refers("critical_alert", "finding_id", "finding"),
        *(_refers("critical_alert", by, "user_account") for by in ("opened_by", "confirmed_by", "closed_by")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_critical_alert")),
    )
    op.create_index(op.f("ix_critical_alert_study_id"), "critical_alert", ["study_id"])
    op.create_index("ix_critical_alert_clock", "critical_alert", ["state", "clock_at"])
    op.create_index(
        "uq_critical_alert_open",
        "critical_alert",
        ["study_id", "label"],
        unique=True,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )


def _communications() -> None:
    op.create_table(
        "critical_communication",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("alert_id", sa.Uuid(), nullable=False),
        sa.Column("told_by", sa.Uuid(), nullable=False),
        _text("told_name", 128),
        _text("told_role", 64),
        sa.Column("means", _choice("means", "phone", "in_person", "secure_message"), nullable=False),
        _instant("told_at"),
        sa.Column("reached", sa.Boolean(), nullable=False),
        sa.Column("read_back", sa.Boolean(), nullable=False),
        sa.Column("no_read_back_reason", sa.Text(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("corrects_id", sa.Uuid(), nullable=True),
        _instant("created_at"),
        _refers("critical_communication", "alert_id", "critical_alert"),
        _refers("critical_communication", "told_by", "user_account"),
        _refers("critical_communication", "corrects_id", "critical_communication"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_critical_communication")),
        sa.UniqueConstraint("corrects_id", name=op.f("uq_critical_communication_corrects_id")),
    )
    op.create_index(op.f("ix_critical_communication_alert_id"), "critical_communication", ["alert_id"])


def _notices() -> None:
    op.create_table(
        "critical_notice",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("alert_id", sa.Uuid(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("occasion", _choice("occasion", "suspected", "not_answered", "not_told"), nullable=False),
        sa.Column("channel", _choice("channel", "mail", "webhook"), nullable=False),
        _text("recipient", 254),
        sa.Column(
            "state",
            _choice("noticestate", "PENDING", "SENDING", "SENT", "FAILED", "WITHDRAWN"),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), nullable=False),
        _instant("next_attempt_at"),
        _instant("lease_until", nullable=True),
        _text("last_error", 200),
        _instant("created_at"),
        _instant("sent_at", nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        _refers("critical_notice", "alert_id", "critical_alert"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_critical_notice")),
        sa.UniqueConstraint("alert_id", "level", "channel", "recipient", name=op.f("uq_critical_notice_alert_id")),
    )
    op.create_index(op.f("ix_critical_notice_alert_id"), "critical_notice", ["alert_id"])
    op.create_index("ix_critical_notice_due", "critical_notice", ["state", "channel", "next_attempt_at"])


def _write_once(table: str) -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{act.lower()} BEFORE {act} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
