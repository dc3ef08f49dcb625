"""Which Findings a result shows, and the orders that Studies answer.

Safe while the previous release runs: a column with a default, a column that may be empty, a new table.

Revision: 0010, after 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "imaging_order",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("sender", sa.String(length=200), nullable=False),
        sa.Column("placer_order_number", sa.String(length=200), nullable=False),
        sa.Column("filler_order_number", sa.String(length=200), nullable=False),
        sa.Column("accession_number", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("patient_id", sa.String(length=64), nullable=False),
        sa.Column("issuer_of_patient_id", sa.String(length=200), nullable=False),
        sa.Column("patient_name", sa.String(length=324), nullable=False),
        sa.Column("patient_birth_date", sa.String(length=8), nullable=False),
        sa.Column("patient_sex", sa.String(length=16), nullable=False),
        sa.Column("procedure_code", sa.String(length=64), nullable=False),
        sa.Column("procedure_scheme", sa.String(length=64), nullable=False),
        sa.Column("procedure_text", sa.String(length=200), nullable=False),
        sa.Column("indication", sa.Text(), nullable=False),
        sa.Column(
            "priority",
            sa.Enum("STAT", "URGENT", "ROUTINE", name="priority", native_enum=False, length=16, create_constraint=True),
            nullable=False,
        ),
        sa.Column("ordering_provider", sa.String(length=324), nullable=False),
        sa.Column("ordering_provider_id", sa.String(length=64), nullable=False),
        sa.Column("visit_number", sa.String(length=64), nullable=False),
        sa.Column("patient_class", sa.String(length=16), nullable=False),
        sa.Column("patient_location", sa.String(length=200), nullable=False),
        sa.Column("cancelled", sa.Boolean(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imaging_order")),
        sa.UniqueConstraint(
            "sender", "placer_order_number", "accession_number", name=op.f("uq_imaging_order_sender")
        ),
    )
    for column in ("accession_number", "patient_id", "placer_order_number", "study_instance_uid"):
        op.create_index(op.f(f"ix_imaging_order_{column}"), "imaging_order", [column])
    with op.batch_alter_table("study") as batch:
        batch.add_column(sa.Column("order_id", sa.Uuid(), nullable=True))
        batch.create_foreign_key(op.f("fk_study_order_id_imaging_order"), "imaging_order", ["order_id"], ["id"])
        batch.create_index(op.f("ix_study_order_id"), ["order_id"])
    op.add_column("result_object", sa.Column("tracking_uids", sa.JSON(), server_default="[]", nullable=False))


def downgrade() -> None:
    op.drop_column("result_object", "tracking_uids")
    with op.batch_alter_table("study") as batch:
        batch.drop_index(op.f("ix_study_order_id"))
        batch.drop_constraint(op.f("fk_study_order_id_imaging_order"), type_="foreignkey")
        batch.drop_column("order_id")
    op.drop_table("imaging_order")
