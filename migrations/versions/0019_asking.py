"""Questions to the model with their answers; drafts made anew at a reader's wish.

Safe while the previous release runs: all five tables are new, and it asks nothing and makes no draft anew. A redraft
that was adopted is a Reading like any other to it.

Revision: 0019, after 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

WRITTEN_ONCE = ("answer", "answer_copy", "redraft_offer")
_STATES = ("ASKED", "RUNNING", "ANSWERED", "OFFERED", "ADOPTED", "DISCARDED", "REFUSED", "FAILED")


def upgrade() -> None:
    _create_errand(
        "question",
        sa.Column("text", sa.String(length=500), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("frame_number", sa.Integer(), nullable=False),
        sa.Column("with_experts", sa.Boolean(), nullable=False),
    )
    op.create_table(
        "answer",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("question_id", sa.Uuid(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("pictures", sa.JSON(), nullable=False),
        sa.Column("experts", sa.JSON(), nullable=False),
        sa.Column("marks", sa.JSON(), nullable=False),
        sa.Column("conversation", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("demonstration", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["question_id"], ["question.id"], name=op.f("fk_answer_question_id_question")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answer")),
        sa.UniqueConstraint("question_id", name=op.f("uq_answer_question_id")),
    )
    op.create_table(
        "answer_copy",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("answer_id", sa.Uuid(), nullable=False),
        sa.Column("report_id", sa.Uuid(), nullable=False),
        sa.Column("section", sa.String(length=32), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("copied_by", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["answer_id"], ["answer.id"], name=op.f("fk_answer_copy_answer_id_answer")),
        sa.ForeignKeyConstraint(["report_id"], ["report.id"], name=op.f("fk_answer_copy_report_id_report")),
        sa.ForeignKeyConstraint(["copied_by"], ["user_account.id"], name=op.f("fk_answer_copy_copied_by_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_answer_copy")),
    )
    op.create_index(op.f("ix_answer_copy_answer_id"), "answer_copy", ["answer_id"])
    _create_errand(
        "redraft",
        sa.Column("instruction", sa.String(length=500), nullable=False),
        sa.Column("style", sa.String(length=16), nullable=False),
        sa.Column("package_id", sa.Uuid(), nullable=True),
        sa.Column("decided_by", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(["package_id"], ["model_package.id"], name=op.f("fk_redraft_package_id_model_package")),
        sa.ForeignKeyConstraint(["decided_by"], ["user_account.id"], name=op.f("fk_redraft_decided_by_user_account")),
    )
    op.create_table(
        "redraft_offer",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("redraft_id", sa.Uuid(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["redraft_id"], ["redraft.id"], name=op.f("fk_redraft_offer_redraft_id_redraft")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_redraft_offer")),
        sa.UniqueConstraint("redraft_id", name=op.f("uq_redraft_offer_redraft_id")),
    )
    for table in WRITTEN_ONCE:
        _write_once(table)


def downgrade() -> None:
    for table in ("redraft_offer", "redraft", "answer_copy", "answer", "question"):
        op.drop_table(table)  # its guards go with it


def _create_errand(table: str, *own: sa.schema.SchemaItem) -> None:
    op.create_table(
        table,
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("report_id", sa.Uuid(), nullable=False),
        sa.Column("draft_id", sa.Uuid(), nullable=False),
        sa.Column("asked_by", sa.Uuid(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("image_set_sha256", sa.String(length=64), nullable=False),
        sa.Column(
            "state",
            sa.Enum(*_STATES, name="errandstate", native_enum=False, length=16, create_constraint=True),
            nullable=False,
        ),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=64), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("fencing_token", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        *own,
        *(
            sa.ForeignKeyConstraint([column], [f"{there}.id"], name=op.f(f"fk_{table}_{column}_{there}"))
            for column, there in (
                ("study_id", "study"),
                ("report_id", "report"),
                ("draft_id", "draft"),
                ("asked_by", "user_account"),
            )
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
    )
    for column in ("study_id", "report_id", "state"):
        op.create_index(op.f(f"ix_{table}_{column}"), table, [column])


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
