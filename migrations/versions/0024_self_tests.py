"""The worklist's place of the self-test: a lane of its own, which no list shows.

Safe while the previous release runs: it reads no lane it does not know, and the database keeps the places.

What a self-test sent is known before its first Instance arrives (``node_task.study_instance_uid``), so the trigger of
the Report's insertion finds it.

Revision: 0024, after 0023
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

_SELF_TEST = """WHEN EXISTS (SELECT 1 FROM node_task
        JOIN study ON study.study_instance_uid = node_task.study_instance_uid
        WHERE study.id = report.study_id) THEN 'self_test'"""
_BEFORE = """WHEN (SELECT is_prior FROM study WHERE study.id = report.study_id) THEN 'prior'
    WHEN state = 'DRAFTED' THEN 'to_read'
    WHEN state = 'IN_REVIEW' THEN 'in_review'
    WHEN state = 'PRELIMINARY' THEN 'preliminary'
    WHEN state IN ('FINAL', 'ADDENDED', 'CORRECTED') THEN 'signed'
    WHEN state IN ('REJECTED', 'CANCELLED') THEN 'rejected'
    WHEN EXISTS (SELECT 1 FROM reading WHERE reading.study_id = report.study_id AND NOT reading.superseded
        AND reading.state IN ('NO_DRAFT', 'FAILED', 'HELD', 'IGNORED', 'DRAFTED')) THEN 'no_draft'
    ELSE 'processing' END"""
_PRIORITY = """(SELECT min(CASE priority WHEN 'STAT' THEN 0 WHEN 'URGENT' THEN 2 ELSE 3 END) FROM reading
    WHERE reading.study_id = report.study_id AND NOT reading.superseded)"""
_URGENCY = f"CASE WHEN {_PRIORITY} = 0 THEN 0 WHEN suspected_critical THEN 1 ELSE coalesce({_PRIORITY}, 3) END"
_LISTED = "(SELECT first_received_at FROM study WHERE study.id = report.study_id)"
# (trigger, table, what happens, columns, the Study's column), as of migration 0016
_TRIGGERS = (
    ("report_listed", "report", "INSERT", "", "study_id"),
    ("report_relisted", "report", "UPDATE", "state, suspected_critical", "study_id"),
    ("reading_listed", "reading", "INSERT", "", "study_id"),
    ("reading_relisted", "reading", "UPDATE", "state, priority, superseded", "study_id"),
    ("study_relisted", "study", "UPDATE", "is_prior", "id"),
)
_OF_SELF_TESTS = """WHERE study_id IN (SELECT study.id FROM study
    JOIN node_task ON node_task.study_instance_uid = study.study_instance_uid)"""


def upgrade() -> None:
    _place(f"CASE {_SELF_TEST} {_BEFORE}")


def downgrade() -> None:
    _place(f"CASE {_BEFORE}")


def _place(lane: str) -> None:
    """Let the triggers keep this lane, and set it for the self-tests there are."""
    place = f"UPDATE report SET lane = {lane}, urgency = {_URGENCY}, listed_at = {_LISTED}"
    if op.get_context().dialect.name == "postgresql":
        op.execute(f"""
            CREATE OR REPLACE FUNCTION list_report() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF TG_TABLE_NAME = 'study' THEN
                    {place} WHERE study_id = NEW.id;
                ELSE
                    {place} WHERE study_id = NEW.study_id;
                END IF;
                RETURN NULL;
            END $$""")
    else:
        for name, table, act, columns, key in _TRIGGERS:
            when = f"{act} OF {columns}" if columns else act
            op.execute(f"DROP TRIGGER {name}")
            op.execute(f"CREATE TRIGGER {name} AFTER {when} ON {table} BEGIN {place} WHERE study_id = NEW.{key}; END")
    op.execute(f"{place} {_OF_SELF_TESTS}")
