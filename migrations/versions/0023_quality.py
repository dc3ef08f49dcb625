"""Quality: what became of each draft, and which scanner made a Series.

Safe while the previous release runs: the table is new and filled afterwards, the columns have defaults.

Revision: 0023, after 0022
"""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_WORDS = (("model", 200), ("modality", 64), ("body_part", 64), ("scanner", 200), ("sex", 16), ("age_group", 16), ("priority", 16))


def upgrade() -> None:
    for name in ("manufacturer", "manufacturer_model"):
        op.add_column("series", sa.Column(name, sa.String(64), server_default="", nullable=False))
    op.create_table(
        "draft_outcome",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("draft_id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("reader_id", sa.Uuid(), nullable=False),
        sa.Column(
            "verdict",
            sa.Enum(
                "unchanged", "edited", "rejected", name="verdict", native_enum=False, length=16, create_constraint=True
            ),
            nullable=False,
        ),
        sa.Column("demonstration", sa.Boolean(), nullable=False),
        *(sa.Column(name, sa.String(length), nullable=False) for name, length in _WORDS),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("words_drafted", "words_signed", "edits")),
        sa.Column("changed_sections", sa.JSON(), nullable=False),
        *(
            sa.Column(name, sa.DateTime(timezone=True), nullable=False)
            for name in ("received_at", "drafted_at", "decided_at")
        ),
        sa.ForeignKeyConstraint(["draft_id"], ["draft.id"], name=op.f("fk_draft_outcome_draft_id_draft")),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_draft_outcome_study_id_study")),
        sa.ForeignKeyConstraint(
            ["reader_id"], ["user_account.id"], name=op.f("fk_draft_outcome_reader_id_user_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_draft_outcome")),
        sa.UniqueConstraint("draft_id", name=op.f("uq_draft_outcome_draft_id")),
    )
    op.create_index(op.f("ix_draft_outcome_study_id"), "draft_outcome", ["study_id"])
    op.create_index(op.f("ix_draft_outcome_decided_at"), "draft_outcome", ["decided_at"])


def downgrade() -> None:
    op.drop_table("draft_outcome")
    for name in ("manufacturer_model", "manufacturer"):
        op.drop_column("series", name)
