"""The model store: packages and accepted licences; what the drafts of a Reading are for.

Safe while the previous release runs: the tables are new, and the new column of ``reading`` has a default in the
database, which is what the previous release's inserts get.

Revision: 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_package",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column(
            "kind",
            sa.Enum("vlm", "expert", name="packagekind", native_enum=False, create_constraint=True, length=16),
            nullable=False,
        ),
        sa.Column("place", sa.String(length=80), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("revision", sa.String(length=64), nullable=False),
        sa.Column("folder", sa.String(length=200), nullable=False),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=False),
        sa.Column("licence", sa.String(length=128), nullable=False),
        sa.Column("licence_sha256", sa.String(length=64), nullable=False),
        sa.Column("research_only", sa.Boolean(), nullable=False),
        sa.Column("demonstration", sa.Boolean(), nullable=False),
        sa.Column(
            "state",
            sa.Enum(
                "IMPORTED",
                "ACTIVE",
                "RETIRED",
                name="packagestate",
                native_enum=False,
                create_constraint=True,
                length=16,
            ),
            nullable=False,
        ),
        sa.Column("imported_by", sa.String(length=64), nullable=False),
        sa.Column("imported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("activated_by", sa.String(length=64), nullable=False),
        sa.Column("activated_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("retired_by", sa.String(length=64), nullable=False),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_package")),
        sa.UniqueConstraint("folder", name=op.f("uq_model_package_folder")),
    )
    op.create_index(op.f("ix_model_package_name"), "model_package", ["name"])
    active = sa.text("state = 'ACTIVE'")
    op.create_index(
        "uq_model_package_active",
        "model_package",
        ["place"],
        unique=True,
        sqlite_where=active,
        postgresql_where=active,
    )
    op.create_table(
        "licence_acceptance",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("package", sa.String(length=64), nullable=False),
        sa.Column("licence", sa.String(length=128), nullable=False),
        sa.Column("text_sha256", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("accepted_by", sa.String(length=64), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_licence_acceptance")),
    )
    op.create_index(op.f("ix_licence_acceptance_package"), "licence_acceptance", ["package"])
    # written by hand: SQLite takes a check with a new column only in one statement, and a table that is rebuilt
    # would lose its triggers
    op.execute(
        "ALTER TABLE reading ADD COLUMN use VARCHAR(16) DEFAULT 'clinical' NOT NULL "
        "CONSTRAINT ck_reading_use CHECK (use IN ('clinical', 'research'))"
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON licence_acceptance "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
        return
    for act in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER licence_acceptance_no_{act.lower()} BEFORE {act} ON licence_acceptance "
            "BEGIN SELECT RAISE(ABORT, 'licence_acceptance is append-only'); END"
        )


def downgrade() -> None:
    op.execute("ALTER TABLE reading DROP COLUMN use")
    op.drop_index(op.f("ix_licence_acceptance_package"), table_name="licence_acceptance")
    op.drop_table("licence_acceptance")
    op.drop_index("uq_model_package_active", table_name="model_package")
    op.drop_index(op.f("ix_model_package_name"), table_name="model_package")
    op.drop_table("model_package")
