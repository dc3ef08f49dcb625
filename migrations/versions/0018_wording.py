"""Templates and macros; AI text that was accepted as it is.

Safe while the previous release runs: all three tables are new, and it neither reads nor writes them.

Revision: 0018, after 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

WRITTEN_ONCE = "accepted_text"


def upgrade() -> None:
    op.create_table(
        "report_template",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=80), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=False),
        sa.Column("body_part", sa.String(length=64), nullable=False),
        sa.Column("procedure", sa.String(length=200), nullable=False),
        sa.Column("sections", sa.JSON(), nullable=False),
        *_keeping("report_template"),
    )
    op.create_index("uq_report_template_kept", "report_template", ["name"], unique=True, **_where("retired_at IS NULL"))
    op.create_table(
        "macro",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=True),
        sa.Column("word", sa.String(length=32), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        *_keeping("macro"),
        sa.ForeignKeyConstraint(["owner_id"], ["user_account.id"], name=op.f("fk_macro_owner_id_user_account")),
    )
    op.create_index(op.f("ix_macro_owner_id"), "macro", ["owner_id"])
    own, site = "retired_at IS NULL AND owner_id IS NOT NULL", "retired_at IS NULL AND owner_id IS NULL"
    op.create_index("uq_macro_own", "macro", ["owner_id", "word"], unique=True, **_where(own))
    op.create_index("uq_macro_site", "macro", ["word"], unique=True, **_where(site))
    op.create_table(
        "accepted_text",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("report_id", sa.Uuid(), nullable=False),
        sa.Column("draft_id", sa.Uuid(), nullable=False),
        sa.Column("section", sa.String(length=32), nullable=False),
        sa.Column("text_sha256", sa.String(length=64), nullable=False),
        sa.Column("accepted_by", sa.Uuid(), nullable=False),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["report_id"], ["report.id"], name=op.f("fk_accepted_text_report_id_report")),
        sa.ForeignKeyConstraint(["draft_id"], ["draft.id"], name=op.f("fk_accepted_text_draft_id_draft")),
        sa.ForeignKeyConstraint(
            ["accepted_by"], ["user_account.id"], name=op.f("fk_accepted_text_accepted_by_user_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accepted_text")),
        sa.UniqueConstraint("report_id", "draft_id", "section", name=op.f("uq_accepted_text_report_id")),
    )
    op.create_index(op.f("ix_accepted_text_report_id"), "accepted_text", ["report_id"])
    _write_once(WRITTEN_ONCE)


def downgrade() -> None:
    for table in ("accepted_text", "macro", "report_template"):
        op.drop_table(table)  # its guards go with it


def _keeping(table: str) -> list[sa.schema.SchemaItem]:
    """Who added and who retired a row; nothing is deleted."""
    people = [
        sa.ForeignKeyConstraint([column], ["user_account.id"], name=op.f(f"fk_{table}_{column}_user_account"))
        for column in ("added_by", "retired_by")
    ]
    return [
        sa.Column("added_by", sa.Uuid(), nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retired_by", sa.Uuid(), nullable=True),
        sa.Column("retired_at", sa.DateTime(timezone=True), nullable=True),
        *people,
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
    ]


def _where(condition: str) -> dict[str, sa.TextClause]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


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
