"""The audit trail: bundles that events were archived in, and legal holds on the record.

Safe while the previous release runs: the tables are new to it, and what it may do to events stays nothing.

Revision: 0033
"""

import sqlalchemy as sa
from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
# whether a bundle holds the event that is to be deleted
_ARCHIVED = """EXISTS (SELECT 1 FROM audit_seal JOIN audit_archive ON audit_seal.position >= audit_archive.first_position
    AND audit_seal.position < audit_archive.end_position WHERE audit_seal.seq = OLD.seq)"""


def upgrade() -> None:
    op.create_table(
        "audit_archive",
        sa.Column("first_position", _BIG, autoincrement=False, nullable=False),
        sa.Column("end_position", _BIG, nullable=False),
        sa.Column("file", sa.String(length=200), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("manifest", sa.Text(), nullable=False),
        sa.Column("archived_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("first_position", name=op.f("pk_audit_archive")),
    )
    op.create_table(
        "audit_hold",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.String(length=400), nullable=False),
        sa.Column("placed_by", sa.String(length=64), nullable=False),
        sa.Column("placed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lifted_by", sa.String(length=64), nullable=False),
        sa.Column("lifted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_hold")),
    )
    if op.get_context().dialect.name == "postgresql":
        op.execute(f"""
            CREATE FUNCTION audit_only_archived() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF {_ARCHIVED} THEN
                    RETURN OLD;
                END IF;
                RAISE EXCEPTION 'audit_event is append-only' USING ERRCODE = 'restrict_violation';
            END $$""")
        op.execute("DROP TRIGGER append_only ON audit_event")
        op.execute(
            "CREATE TRIGGER append_only BEFORE UPDATE ON audit_event FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
        op.execute(
            "CREATE TRIGGER archived_only BEFORE DELETE ON audit_event "
            "FOR EACH ROW EXECUTE FUNCTION audit_only_archived()"
        )
        op.execute(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_archive "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    op.execute("DROP TRIGGER audit_event_no_delete")
    op.execute(
        f"CREATE TRIGGER audit_event_no_delete BEFORE DELETE ON audit_event WHEN NOT {_ARCHIVED} "
        "BEGIN SELECT RAISE(ABORT, 'audit_event is append-only'); END"
    )
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_archive_no_{act.lower()} BEFORE {act} ON audit_archive "
            "BEGIN SELECT RAISE(ABORT, 'audit_archive is append-only'); END"
        )


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP TRIGGER append_only ON audit_event")
        op.execute("DROP TRIGGER archived_only ON audit_event")
        op.execute("DROP FUNCTION audit_only_archived()")
        op.execute(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON audit_event "
            "FOR EACH ROW EXECUTE FUNCTION refuse_change()"
        )
    else:
        op.execute("DROP TRIGGER audit_event_no_delete")
        op.execute(
            "CREATE TRIGGER audit_event_no_delete BEFORE DELETE ON audit_event "
            "BEGIN SELECT RAISE(ABORT, 'audit_event is append-only'); END"
        )
    op.drop_table("audit_hold")
    op.drop_table("audit_archive")
