"""How deliveries are counted and destinations tested.

Safe while the previous release runs: columns with a default or that may be empty, and a new table.

Revision: 0011, after 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_STATES = ("NOT_ASKED", "WAITING", "HELD", "ALARM")


def upgrade() -> None:
    with op.batch_alter_table("delivery") as delivery:
        delivery.add_column(
            sa.Column(
                "counted",
                sa.Enum(*_STATES, name="countstate", native_enum=False, create_constraint=True, length=16),
                server_default="NOT_ASKED",
                nullable=False,
            )
        )
        delivery.add_column(sa.Column("count_due_at", sa.DateTime(timezone=True), nullable=True))
        delivery.add_column(sa.Column("count_attempts", sa.Integer(), server_default="0", nullable=False))
        delivery.add_column(sa.Column("count_missed", sa.Integer(), server_default="0", nullable=False))
        delivery.create_index("ix_delivery_count_due", ["destination", "counted", "count_due_at"])
    op.create_table(
        "destination_test",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("destination", sa.String(length=32), nullable=False),
        sa.Column("asked_by", sa.String(length=64), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_good", sa.Boolean(), nullable=False),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_destination_test")),
    )
    op.create_index("ix_destination_test_waiting", "destination_test", ["finished_at", "asked_at"])


def downgrade() -> None:
    op.drop_table("destination_test")
    with op.batch_alter_table("delivery") as delivery:
        delivery.drop_index("ix_delivery_count_due")
        delivery.drop_constraint(op.f("ck_delivery_countstate"), type_="check")
        for name in ("count_missed", "count_attempts", "count_due_at", "counted"):
            delivery.drop_column(name)
