"""Accounts: seven roles, where an account comes from, passkeys, break-glass.

Safe while the previous release runs: it knows three of the seven roles and makes no others; both tables are new,
and the new columns fill themselves.

Revision: 0015, after 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

WRITTEN_ONCE = ("break_glass",)
_BEFORE = ("radiologist", "admin", "auditor")
_ROLES = ("viewer", "resident", "radiologist", "lead", "admin", "auditor", "service")
_SOURCES = ("local", "oidc", "ldap")


def upgrade() -> None:
    _roles(_BEFORE, _ROLES)
    with op.batch_alter_table("user_account") as account:
        account.add_column(
            sa.Column(
                "source",
                sa.Enum(*_SOURCES, name="accountsource", native_enum=False, length=16, create_constraint=True),
                nullable=False,
                server_default="local",
            )
        )
        account.add_column(sa.Column("external_id", sa.String(64), nullable=True))
        account.create_unique_constraint(op.f("uq_user_account_external_id"), ["external_id"])
    op.create_table(
        "passkey",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("credential_id", sa.String(1366), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column("sign_count", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("backed_up", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_passkey_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_passkey")),
        sa.UniqueConstraint("credential_id", name=op.f("uq_passkey_credential_id")),
    )
    op.create_index(op.f("ix_passkey_user_id"), "passkey", ["user_id"])
    op.create_table(
        "break_glass",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("granted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_break_glass_user_id_user_account")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_break_glass_study_id_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_break_glass")),
    )
    op.create_index(op.f("ix_break_glass_user_id"), "break_glass", ["user_id"])
    op.create_index(op.f("ix_break_glass_study_id"), "break_glass", ["study_id"])
    for table in WRITTEN_ONCE:
        _write_once(table)


def downgrade() -> None:
    for table in reversed(WRITTEN_ONCE):
        op.drop_table(table)  # its guards go with it
    op.drop_table("passkey")
    with op.batch_alter_table("user_account") as account:
        account.drop_constraint(op.f("uq_user_account_external_id"), type_="unique")
        account.drop_column("external_id")
        account.drop_constraint(op.f("ck_user_account_accountsource"), type_="check")
        account.drop_column("source")
    _roles(_ROLES, _BEFORE)


def _roles(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    with op.batch_alter_table("user_account") as account:
        account.alter_column("role", existing_type=_kind(old), type_=_kind(new), existing_nullable=False)


def _kind(roles: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*roles, name="role", native_enum=False, length=16, create_constraint=True)


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
