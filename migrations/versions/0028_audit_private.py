"""The audit trail: what is kept apart goes only by a recorded erasure, and partitions are made by whoever may.

Safe while the previous release runs: it erases nothing, and makes no partitions.

Revision: 0028
"""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_RECORDED = "EXISTS (SELECT 1 FROM audit_erasure WHERE audit_erasure.seq = OLD.seq)"


def upgrade() -> None:
    """Add the table of erasures and the guard that needs it."""
    op.create_table(
        "audit_erasure",
        sa.Column("seq", _BIG, autoincrement=False, nullable=False),
        sa.Column("erasure_id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit_erasure")),
    )
    op.create_index(op.f("ix_audit_erasure_erasure_id"), "audit_erasure", ["erasure_id"])
    if op.get_context().dialect.name == "postgresql":
        _guard_postgresql()
    else:
        _guard_sqlite()


def downgrade() -> None:
    """Take them away; what was erased does not come back."""
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP TRIGGER erased_only ON audit_private")
        op.execute("DROP FUNCTION audit_only_erased()")
        op.execute("ALTER FUNCTION audit_partition(date) SECURITY INVOKER RESET search_path")
        op.execute("ALTER FUNCTION audit_wait() SECURITY INVOKER RESET search_path")
    else:
        op.execute("DROP TRIGGER audit_private_no_delete")
    op.drop_table("audit_erasure")


def _guard_sqlite() -> None:
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER audit_erasure_no_{act.lower()} BEFORE {act} ON audit_erasure "
            "BEGIN SELECT RAISE(ABORT, 'audit_erasure is append-only'); END"
        )
    op.execute(
        f"CREATE TRIGGER audit_private_no_delete BEFORE DELETE ON audit_private WHEN NOT {_RECORDED} "
        "BEGIN SELECT RAISE(ABORT, 'audit_private is append-only without a recorded erasure'); END"
    )


def _guard_postgresql() -> None:
    op.execute(
        "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_erasure "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
    )
    op.execute(f"""
        CREATE FUNCTION audit_only_erased() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF {_RECORDED} THEN
                RETURN OLD;
            END IF;
            RAISE EXCEPTION 'audit_private is append-only without a recorded erasure'
                USING ERRCODE = 'restrict_violation';
        END $$""")
    op.execute(
        "CREATE TRIGGER erased_only BEFORE DELETE ON audit_private FOR EACH ROW EXECUTE FUNCTION audit_only_erased()"
    )
    # a role without rights on the schema makes partitions, and lists what waits, by the owner's; nobody's search path
    schema = op.get_bind().execute(sa.text("SELECT current_schema()")).scalar()
    for function in ("audit_partition(date)", "audit_wait()"):
        op.execute(f'ALTER FUNCTION {function} SECURITY DEFINER SET search_path = "{schema}", pg_temp')
