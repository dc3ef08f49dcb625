"""The worklist: where each Report is listed, who is to read it, lists that people keep.

Safe while the previous release runs: the tables are new, the columns have defaults it does not know, and the database
itself keeps the places on the list, also for what the previous release writes.

A Report's ``lane``, ``urgency`` and ``listed_at`` follow from rows of three tables (its own state, the state and
priority of its Study's Reading in force, whether the Study was only fetched for comparison). Triggers write them, so
that an index holds every list in its order and a page costs the same at its beginning and at its end.

Revision: 0016, after 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_report_lane_urgency", ["lane", "urgency", "listed_at", "study_id"]),
    ("ix_report_lane_listed", ["lane", "listed_at", "study_id"]),
    ("ix_report_urgency", ["urgency", "listed_at", "study_id"]),
    ("ix_report_listed", ["listed_at", "study_id"]),
)
# the report speaks, and before it the pipeline; what was fetched for comparison waits for nobody
_LANE = """CASE
    WHEN (SELECT is_prior FROM study WHERE study.id = report.study_id) THEN 'prior'
    WHEN state = 'DRAFTED' THEN 'to_read'
    WHEN state = 'IN_REVIEW' THEN 'in_review'
    WHEN state = 'PRELIMINARY' THEN 'preliminary'
    WHEN state IN ('FINAL', 'ADDENDED', 'CORRECTED') THEN 'signed'
    WHEN state IN ('REJECTED', 'CANCELLED') THEN 'rejected'
    WHEN EXISTS (SELECT 1 FROM reading WHERE reading.study_id = report.study_id AND NOT reading.superseded
        AND reading.state IN ('NO_DRAFT', 'FAILED', 'HELD', 'IGNORED', 'DRAFTED')) THEN 'no_draft'
    ELSE 'processing' END"""
_PRIORITY = """(SELECT min(CASE priority WHEN 'STAT' THEN 0 WHEN 'URGENT' THEN 2 ELSE 3 END) FROM reading
    WHERE reading.study_id = report.study_id AND NOT reading.superseded)"""
_URGENCY = f"CASE WHEN {_PRIORITY} = 0 THEN 0 WHEN suspected_critical THEN 1 ELSE coalesce({_PRIORITY}, 3) END"
_LISTED = "(SELECT first_received_at FROM study WHERE study.id = report.study_id)"
_PLACE = f"UPDATE report SET lane = {_LANE}, urgency = {_URGENCY}, listed_at = {_LISTED}"
# (trigger, table, what happens, columns, the Study's column)
_TRIGGERS = (
    ("report_listed", "report", "INSERT", "", "study_id"),
    ("report_relisted", "report", "UPDATE", "state, suspected_critical", "study_id"),
    ("reading_listed", "reading", "INSERT", "", "study_id"),
    ("reading_relisted", "reading", "UPDATE", "state, priority, superseded", "study_id"),
    ("study_relisted", "study", "UPDATE", "is_prior", "id"),
)


def upgrade() -> None:
    op.add_column("report", sa.Column("lane", sa.String(16), server_default="processing", nullable=False))
    op.add_column("report", sa.Column("urgency", sa.Integer(), server_default="3", nullable=False))
    op.add_column(
        "report",
        sa.Column("listed_at", sa.DateTime(timezone=True), server_default="1970-01-01 00:00:00", nullable=False),
    )
    op.add_column("report", sa.Column("suspected_critical", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.execute(_PLACE)
    for name, columns in _INDEXES:
        op.create_index(name, "report", columns)
    op.create_index(op.f("ix_signature_signed_at"), "signature", ["signed_at"])
    _make_tables()
    _make_triggers()


def downgrade() -> None:
    for name, table, *_ in _TRIGGERS:
        on = f" ON {table}" if _is_postgres() else ""
        op.execute(f"DROP TRIGGER {name}{on}")
    if _is_postgres():
        op.execute("DROP FUNCTION list_report()")
    op.drop_table("kept_list")
    op.drop_table("assignment")
    op.drop_index(op.f("ix_signature_signed_at"), table_name="signature")
    for name, _ in _INDEXES:
        op.drop_index(name, table_name="report")
    for column in ("suspected_critical", "listed_at", "urgency", "lane"):
        op.drop_column("report", column)


def _make_tables() -> None:
    op.create_table(
        "assignment",
        sa.Column("report_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("assigned_by", sa.Uuid(), nullable=False),
        sa.Column("assigned_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["report_id"], ["report.id"], name=op.f("fk_assignment_report_id_report")),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_assignment_user_id_user_account")),
        sa.ForeignKeyConstraint(
            ["assigned_by"], ["user_account.id"], name=op.f("fk_assignment_assigned_by_user_account")
        ),
        sa.PrimaryKeyConstraint("report_id", name=op.f("pk_assignment")),
    )
    op.create_index(op.f("ix_assignment_user_id"), "assignment", ["user_id"])
    op.create_table(
        "kept_list",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("query", sa.String(400), nullable=False),
        sa.Column("shared", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["user_account.id"], name=op.f("fk_kept_list_owner_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_kept_list")),
        sa.UniqueConstraint("owner_id", "name", name=op.f("uq_kept_list_owner_id")),
    )


def _make_triggers() -> None:
    if _is_postgres():
        op.execute(f"""
            CREATE FUNCTION list_report() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF TG_TABLE_NAME = 'study' THEN
                    {_PLACE} WHERE study_id = NEW.id;
                ELSE
                    {_PLACE} WHERE study_id = NEW.study_id;
                END IF;
                RETURN NULL;
            END $$""")
    for name, table, act, columns, key in _TRIGGERS:
        when = f"{act} OF {columns}" if columns else act
        body = (
            "FOR EACH ROW EXECUTE FUNCTION list_report()"
            if _is_postgres()
            else f"BEGIN {_PLACE} WHERE study_id = NEW.{key}; END"
        )
        op.execute(f"CREATE TRIGGER {name} AFTER {when} ON {table} {body}")


def _is_postgres() -> bool:
    return op.get_context().dialect.name == "postgresql"
