"""Running the system: the queue's switch, workers' presence, tasks for the node, model switches, disk measures.

Safe while the previous release runs: every table is new, and it knows none of them; its workers take Readings also
while the queue is paused.

Revision: 0022, after 0021
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_MODES = ("OPEN", "PAUSED", "DRAINING")
_SWITCHES = ("PROPOSED", "APPROVED", "DECLINED", "WITHDRAWN", "EXPIRED")
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _choice(name: str, values: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*values, name=name, native_enum=False, create_constraint=True, length=16)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "queue_switch",
        sa.Column("id", _NUMBER, nullable=False),
        sa.Column("mode", _choice("queuemode", _MODES), nullable=False),
        sa.Column("reason", sa.String(length=200), nullable=False),
        sa.Column("changed_by", sa.String(length=64), nullable=False),
        _time("changed_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_queue_switch")),
    )
    op.create_table(
        "worker_presence",
        sa.Column("owner", sa.String(length=64), nullable=False),
        _time("started_at"),
        _time("seen_at"),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_worker_presence")),
    )
    op.create_index(op.f("ix_worker_presence_seen_at"), "worker_presence", ["seen_at"])
    op.create_table(
        "node_task",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("target", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("asked_by", sa.String(length=64), nullable=False),
        _time("asked_at"),
        _time("lease_until", nullable=True),
        _time("finished_at", nullable=True),
        sa.Column("is_good", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("steps", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_node_task")),
    )
    op.create_index("ix_node_task_waiting", "node_task", ["kind", "finished_at", "asked_at"])
    op.create_index(op.f("ix_node_task_study_instance_uid"), "node_task", ["study_instance_uid"])
    _create_model_switch()
    op.create_table(
        "disk_measure",
        sa.Column("id", _NUMBER, nullable=False),
        _time("taken_at"),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("parts", sa.JSON(), nullable=False),
        sa.Column("facts", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_disk_measure")),
    )


def _create_model_switch() -> None:
    op.create_table(
        "model_switch",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("package_id", sa.Uuid(), nullable=False),
        sa.Column("act", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("fall_back", sa.Boolean(), nullable=False),
        sa.Column("state", _choice("switchstate", _SWITCHES), nullable=False),
        sa.Column("proposed_by", sa.String(length=64), nullable=False),
        sa.Column("proposer_id", sa.Uuid(), nullable=True),
        _time("proposed_at"),
        _time("expires_at"),
        _time("verified_at", nullable=True),
        sa.Column("faults", sa.JSON(), nullable=False),
        sa.Column("decided_by", sa.String(length=64), nullable=False),
        _time("decided_at", nullable=True),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["package_id"], ["model_package.id"], name=op.f("fk_model_switch_package_id_model_package")
        ),
        sa.ForeignKeyConstraint(
            ["proposer_id"], ["user_account.id"], name=op.f("fk_model_switch_proposer_id_user_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_switch")),
    )
    op.create_index(op.f("ix_model_switch_package_id"), "model_switch", ["package_id"])
    op.create_index(op.f("ix_model_switch_state"), "model_switch", ["state"])


def downgrade() -> None:
    for table in ("disk_measure", "model_switch", "node_task", "worker_presence", "queue_switch"):
        op.drop_table(table)
