"""Addenda and corrections; drafts that a reader refused, and the notes that took them back.

Safe while the previous release runs: both tables are new, the column may be empty, and it makes neither ADDENDED nor CORRECTED reports, so
it never meets the stricter guard.

Revision: 0014, after 0013
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

WRITTEN_ONCE = ("amendment", "draft_rejection")
_STATES = (
    "UNREAD", "DRAFTED", "IN_REVIEW", "PRELIMINARY", "FINAL", "ADDENDED", "CORRECTED", "REJECTED", "CANCELLED",
)  # fmt: skip
_UNAMENDED = "'PRELIMINARY', 'FINAL'"
_SIGNED = "'PRELIMINARY', 'FINAL', 'ADDENDED', 'CORRECTED'"


def upgrade() -> None:
    op.create_table(
        "amendment",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("report_id", sa.Uuid(), nullable=False),
        sa.Column("signature_id", sa.Uuid(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(*_STATES, name="reportstate", native_enum=False, length=16, create_constraint=True),
            nullable=False,
        ),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["report_id"], ["report.id"], name=op.f("fk_amendment_report_id_report")),
        sa.ForeignKeyConstraint(["signature_id"], ["signature.id"], name=op.f("fk_amendment_signature_id_signature")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_amendment")),
        sa.UniqueConstraint("signature_id", name=op.f("uq_amendment_signature_id")),
        sa.UniqueConstraint("report_id", "state", "number", name=op.f("uq_amendment_report_id")),
    )
    op.create_index(op.f("ix_amendment_report_id"), "amendment", ["report_id"])
    op.create_table(
        "draft_rejection",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("draft_id", sa.Uuid(), nullable=False),
        sa.Column("rejected_by", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["draft_id"], ["draft.id"], name=op.f("fk_draft_rejection_draft_id_draft")),
        sa.ForeignKeyConstraint(
            ["rejected_by"], ["user_account.id"], name=op.f("fk_draft_rejection_rejected_by_user_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_draft_rejection")),
        sa.UniqueConstraint("draft_id", name=op.f("uq_draft_rejection_draft_id")),
    )
    with op.batch_alter_table("delivery") as delivery:
        delivery.add_column(sa.Column("note_id", sa.Uuid(), nullable=True))
        delivery.create_foreign_key(op.f("fk_delivery_note_id_result_object"), "result_object", ["note_id"], ["id"])
        delivery.create_index(op.f("ix_delivery_note_id"), ["note_id"])
    for table in WRITTEN_ONCE:
        _write_once(table)
    _guard_report(_SIGNED)


def downgrade() -> None:
    _guard_report(_UNAMENDED)
    with op.batch_alter_table("delivery") as delivery:
        delivery.drop_index(op.f("ix_delivery_note_id"))
        delivery.drop_constraint(op.f("fk_delivery_note_id_result_object"), type_="foreignkey")
        delivery.drop_column("note_id")
    for table in reversed(WRITTEN_ONCE):
        op.drop_table(table)  # its guards go with it


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


def _guard_report(signed: str) -> None:
    """Let no report become one of these states without a signature of that state."""
    if op.get_context().dialect.name == "postgresql":
        op.execute(f"""
            CREATE OR REPLACE FUNCTION require_signature() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF TG_OP = 'INSERT' THEN
                    IF NEW.state <> 'UNREAD' THEN
                        RAISE EXCEPTION 'a report starts UNREAD' USING ERRCODE = 'restrict_violation';
                    END IF;
                ELSIF NEW.state IN ({signed}) AND NEW.state <> OLD.state AND NOT EXISTS (
                        SELECT 1 FROM signature WHERE report_id = NEW.id AND state = NEW.state) THEN
                    RAISE EXCEPTION 'a report needs a signature for this state' USING ERRCODE = 'restrict_violation';
                END IF;
                RETURN NEW;
            END $$""")
        return
    op.execute("DROP TRIGGER report_signed")
    op.execute(f"""
        CREATE TRIGGER report_signed BEFORE UPDATE OF state ON report
        WHEN NEW.state IN ({signed}) AND NEW.state <> OLD.state AND NOT EXISTS (
            SELECT 1 FROM signature WHERE report_id = NEW.id AND state = NEW.state)
        BEGIN SELECT RAISE(ABORT, 'a report needs a signature for this state'); END""")
