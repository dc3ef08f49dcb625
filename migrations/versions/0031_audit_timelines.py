"""The audit trail: indexes of the questions Q8 to Q14 and of the timelines, and the tallies behind Q10.

Safe while the previous release runs: it reads none of this; what it would decide meanwhile is not counted in the
tallies, but its processes are stopped for 0026, which is of the same release. Writing to a table waits while its index
is built.

Revision: 0031
"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_critical_alert_opened", "critical_alert", ["opened_at", "id"]),
    ("ix_result_object_created", "result_object", ["created_at", "id"]),
    ("ix_delivery_created", "delivery", ["created_at", "id"]),
    ("ix_delivery_state_created", "delivery", ["state", "created_at", "id"]),
    ("ix_delivery_commitment_created", "delivery", ["commitment", "created_at", "id"]),
    ("ix_prior_held_id", "prior", ["held_id"]),
    ("ix_signature_user_signed", "signature", ["user_id", "signed_at"]),
    ("ix_amendment_created", "amendment", ["created_at", "id"]),
)
_FAILED = sa.text("outcome <> 'success'")
# as db.lifecycle.tallies counts; kept here, so that the migration stays what it was
_BACKFILL = """
INSERT INTO performance_tally (day, dimension, value, model, label, demonstration, tp, fp, fn, tn)
SELECT day, dimension, value, model, label, demonstration, sum(tp), sum(fp), sum(fn), sum(tn) FROM (
  SELECT {day} AS day, d.dimension, coalesce(CASE d.dimension WHEN 'age_group' THEN o.age_group WHEN 'sex' THEN o.sex
           WHEN 'scanner' THEN o.scanner WHEN 'site' THEN s.calling_ae ELSE '' END, '') AS value,
         o.model AS model, f.label AS label, o.demonstration AS demonstration,
         CASE WHEN f.presence = 'present' AND f.decision <> 'rejected' THEN 1 ELSE 0 END AS tp,
         CASE WHEN f.presence = 'present' AND f.decision = 'rejected' THEN 1 ELSE 0 END AS fp,
         CASE WHEN f.presence = 'absent' AND f.decision = 'rejected' THEN 1 ELSE 0 END AS fn,
         CASE WHEN f.presence = 'absent' AND f.decision <> 'rejected' THEN 1 ELSE 0 END AS tn
  FROM draft_outcome o
  JOIN finding f ON f.draft_id = o.draft_id
  JOIN study s ON s.id = o.study_id
  CROSS JOIN (SELECT 'all' AS dimension UNION ALL SELECT 'age_group' UNION ALL SELECT 'sex'
              UNION ALL SELECT 'scanner' UNION ALL SELECT 'site') d
  WHERE f.decision_reason <> 'draft rejected' AND f.presence <> 'undetermined'
    AND NOT (f.presence = 'present' AND f.decision = 'pending')
) counted GROUP BY day, dimension, value, model, label, demonstration
"""


def backfill(dialect: str) -> str:
    """Return the statement that counts what was decided before."""
    day = "(o.decided_at AT TIME ZONE 'UTC')::date" if dialect == "postgresql" else "date(o.decided_at)"
    return _BACKFILL.format(day=day)


def upgrade() -> None:
    for name, table, columns in _INDEXES:
        op.create_index(name, table, columns)
    op.create_index(
        "ix_audit_event_failed", "audit_event", ["occurred_at", "seq"], sqlite_where=_FAILED, postgresql_where=_FAILED
    )
    counts = [sa.Column(name, sa.Integer(), server_default="0", nullable=False) for name in ("tp", "fp", "fn", "tn")]
    op.create_table(
        "performance_tally",
        sa.Column("dimension", sa.String(length=16), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("value", sa.String(length=200), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("demonstration", sa.Boolean(), nullable=False),
        *counts,
        sa.PrimaryKeyConstraint(
            "dimension", "day", "value", "model", "label", "demonstration", name=op.f("pk_performance_tally")
        ),
    )
    op.execute(backfill(op.get_context().dialect.name))


def downgrade() -> None:
    op.drop_table("performance_tally")
    op.drop_index("ix_audit_event_failed", "audit_event")
    for name, table, _ in reversed(_INDEXES):
        op.drop_index(name, table)
