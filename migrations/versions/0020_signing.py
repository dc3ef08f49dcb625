"""What was checked before a signature, the pause before it is sent, and how long images were looked at.

Safe while the previous release runs: the tables are new, the new columns fill themselves, and a delivery becomes HELD
only where a person stops one; the previous release leaves such a delivery alone, for it sends what is PENDING.

Revision: 0020, after 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

WRITTEN_ONCE = ("safety_check",)
_HOLDS = ("WAITING", "STOPPED", "RELEASED", "REPLACED")
_BEFORE = ("PENDING", "SENDING", "DELIVERED", "FAILED", "WITHDRAWN")
_DELIVERIES = (*_BEFORE, "HELD")


def upgrade() -> None:
    _checks()
    _holds()
    op.create_table(
        "image_view",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("study_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("images_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_image_view_study_id_study")),
        sa.ForeignKeyConstraint(["user_id"], ["user_account.id"], name=op.f("fk_image_view_user_id_user_account")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_image_view")),
        sa.UniqueConstraint("study_id", "user_id", name=op.f("uq_image_view_study_id")),
    )
    op.create_index(op.f("ix_image_view_study_id"), "image_view", ["study_id"])
    op.add_column("signature", sa.Column("objects_sha256", sa.String(64), nullable=False, server_default=""))
    op.add_column("signature", sa.Column("method", sa.String(16), nullable=False, server_default="password"))
    op.add_column("draft_rejection", sa.Column("code", sa.String(32), nullable=False, server_default=""))
    _states(_BEFORE, _DELIVERIES)
    with op.batch_alter_table("delivery") as delivery:
        delivery.add_column(sa.Column("hold_id", sa.Uuid(), nullable=True))
        delivery.create_foreign_key(op.f("fk_delivery_hold_id_signature_hold"), "signature_hold", ["hold_id"], ["id"])
        delivery.create_index(op.f("ix_delivery_hold_id"), ["hold_id"])
    for table in WRITTEN_ONCE:
        _write_once(table)


def downgrade() -> None:
    with op.batch_alter_table("delivery") as delivery:
        delivery.drop_index(op.f("ix_delivery_hold_id"))
        delivery.drop_constraint(op.f("fk_delivery_hold_id_signature_hold"), type_="foreignkey")
        delivery.drop_column("hold_id")
    _states(_DELIVERIES, _BEFORE)
    op.drop_column("draft_rejection", "code")
    op.drop_column("signature", "method")
    op.drop_column("signature", "objects_sha256")
    for table in ("image_view", "signature_hold", *reversed(WRITTEN_ONCE)):
        op.drop_table(table)  # its guards go with it


def _checks() -> None:
    op.create_table(
        "safety_check",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("signature_id", sa.Uuid(), nullable=False),
        sa.Column("report_id", sa.Uuid(), nullable=False),
        sa.Column("text_sha256", sa.String(64), nullable=False),
        sa.Column("rules", sa.String(16), nullable=False),
        sa.Column("issues", sa.JSON(), nullable=False),
        sa.Column("view_s", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["signature_id"], ["signature.id"], name=op.f("fk_safety_check_signature_id_signature")
        ),
        sa.ForeignKeyConstraint(["report_id"], ["report.id"], name=op.f("fk_safety_check_report_id_report")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_safety_check")),
        sa.UniqueConstraint("signature_id", name=op.f("uq_safety_check_signature_id")),
    )
    op.create_index(op.f("ix_safety_check_report_id"), "safety_check", ["report_id"])


def _holds() -> None:
    op.create_table(
        "signature_hold",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("signature_id", sa.Uuid(), nullable=False),
        sa.Column("report_id", sa.Uuid(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "state",
            sa.Enum(*_HOLDS, name="holdstate", native_enum=False, length=16, create_constraint=True),
            nullable=False,
        ),
        sa.Column("acted_by", sa.Uuid(), nullable=True),
        sa.Column("acted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["signature_id"], ["signature.id"], name=op.f("fk_signature_hold_signature_id_signature")
        ),
        sa.ForeignKeyConstraint(["report_id"], ["report.id"], name=op.f("fk_signature_hold_report_id_report")),
        sa.ForeignKeyConstraint(
            ["acted_by"], ["user_account.id"], name=op.f("fk_signature_hold_acted_by_user_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signature_hold")),
        sa.UniqueConstraint("signature_id", name=op.f("uq_signature_hold_signature_id")),
    )
    op.create_index(op.f("ix_signature_hold_report_id"), "signature_hold", ["report_id"])


def _states(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    with op.batch_alter_table("delivery") as delivery:
        delivery.alter_column("state", existing_type=_kind(old), type_=_kind(new), existing_nullable=False)


def _kind(states: tuple[str, ...]) -> sa.Enum:
    return sa.Enum(*states, name="deliverystate", native_enum=False, length=16, create_constraint=True)


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
