"""Earlier Studies found for comparison.

Safe while the previous release runs: both tables are new, and it reads neither.

Revision: 0007, after 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SEARCH = ("WAITING", "DONE", "SKIPPED", "FAILED")
_PRIOR = ("FOUND", "FETCHING", "HERE", "REFUSED", "FAILED")


def upgrade() -> None:
    op.create_table(
        "prior_search",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        _state("searchstate", _SEARCH),
        sa.Column("reason", sa.String(length=400), nullable=False),
        sa.Column("candidates", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_prior_search_study_id_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prior_search")),
        sa.UniqueConstraint("study_id", name=op.f("uq_prior_search_study_id")),
    )
    op.create_index(op.f("ix_prior_search_state"), "prior_search", ["state"])
    op.create_table(
        "prior",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("held_id", sa.Uuid(), nullable=True),
        sa.Column("source", sa.String(length=32), nullable=False),
        sa.Column("method", sa.String(length=16), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("study_date", sa.String(length=8), nullable=False),
        sa.Column("modalities", sa.String(length=64), nullable=False),
        sa.Column("description", sa.String(length=64), nullable=False),
        sa.Column("expected_instances", sa.Integer(), nullable=True),
        sa.Column("note", sa.String(length=400), nullable=False),
        _state("priorstate", _PRIOR),
        sa.Column("reason", sa.String(length=400), nullable=False),
        sa.Column("message_id", sa.Integer(), nullable=False),
        sa.Column("documents", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("found_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_prior_study_id_study")),
        sa.ForeignKeyConstraint(["held_id"], ["study.id"], name=op.f("fk_prior_held_id_study")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prior")),
        sa.UniqueConstraint("study_id", "study_instance_uid", name=op.f("uq_prior_study_id")),
    )
    for column in ("study_id", "study_instance_uid", "state"):
        op.create_index(op.f(f"ix_prior_{column}"), "prior", [column])


def downgrade() -> None:
    op.drop_table("prior")
    op.drop_table("prior_search")


def _state(name: str, values: tuple[str, ...]) -> sa.Column[str]:
    kind = sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)
    return sa.Column("state", kind, nullable=False)
