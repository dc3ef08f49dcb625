"""The node: associations, priors, expectations, commitment of deliveries, retention.

Safe while the previous release runs: the table is new, and every new column is nullable or has a default in the
database, which is what the previous release's inserts get.

Revision: 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STATES = ("NOT_ASKED", "ASKED", "COMMITTED", "REFUSED", "ALARM")


def upgrade() -> None:
    op.create_table(
        "association",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("calling_ae", sa.String(length=16), nullable=False),
        sa.Column("called_ae", sa.String(length=16), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("tls_subject", sa.String(length=400), nullable=False),
        sa.Column("user_identity", sa.String(length=64), nullable=False),
        sa.Column("rejected", sa.String(length=200), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_how", sa.String(length=16), nullable=False),
        sa.Column("instances", sa.Integer(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_association")),
    )
    with op.batch_alter_table("study") as study:
        study.add_column(sa.Column("is_prior", sa.Boolean(), server_default=sa.false(), nullable=False))
        study.add_column(sa.Column("expected_instances", sa.Integer(), nullable=True))
        study.add_column(sa.Column("expected_by", sa.String(length=16), server_default="", nullable=False))
        study.add_column(sa.Column("complete_now", sa.Boolean(), server_default=sa.false(), nullable=False))
        study.add_column(sa.Column("legal_hold", sa.Boolean(), server_default=sa.false(), nullable=False))
        study.add_column(sa.Column("pixels_deleted_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("instance") as instance:
        instance.add_column(sa.Column("association_id", sa.Uuid(), nullable=True))
        instance.add_column(sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("delivery") as delivery:
        delivery.add_column(
            sa.Column(
                "commitment",
                sa.Enum(*_STATES, name="commitmentstate", native_enum=False, create_constraint=True, length=16),
                server_default="NOT_ASKED",
                nullable=False,
            )
        )
        delivery.add_column(sa.Column("commitment_uid", sa.String(length=64), server_default="", nullable=False))
        delivery.add_column(sa.Column("commitment_due_at", sa.DateTime(timezone=True), nullable=True))
        delivery.add_column(sa.Column("commitment_attempts", sa.Integer(), server_default="0", nullable=False))
        delivery.add_column(sa.Column("committed_at", sa.DateTime(timezone=True), nullable=True))
        delivery.create_index(op.f("ix_delivery_commitment_uid"), ["commitment_uid"])


def downgrade() -> None:
    with op.batch_alter_table("delivery") as delivery:
        delivery.drop_index(op.f("ix_delivery_commitment_uid"))
        delivery.drop_constraint(op.f("ck_delivery_commitmentstate"), type_="check")
        for name in ("committed_at", "commitment_attempts", "commitment_due_at", "commitment_uid", "commitment"):
            delivery.drop_column(name)
    with op.batch_alter_table("instance") as instance:
        instance.drop_column("deleted_at")
        instance.drop_column("association_id")
    with op.batch_alter_table("study") as study:
        for name in (
            "pixels_deleted_at", "legal_hold", "complete_now", "expected_by", "expected_instances", "is_prior",
        ):  # fmt: skip
            study.drop_column(name)
    op.drop_table("association")
