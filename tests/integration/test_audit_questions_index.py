"""The rows by which drafts are found are written with the draft, and for drafts that were there before."""

import pytest
import sqlalchemy as sa
from alembic import command

from db.audit_draft_models import DraftGap, DraftModel, ModelWeights
from db.engine import alembic_config, migrate
from db.lifecycle.draft_index import weights_digest
from tests.audit_questions_support import CXR_WEIGHTS, VLM_FILES, VLM_WEIGHTS, models
from tests.db_support import received

pytestmark = pytest.mark.requirement("REQ-AUDIT-9")


def _rows(engine: sa.Engine) -> dict[str, list[tuple[object, ...]]]:
    found = {}
    with engine.connect() as connection:
        for table in (DraftModel, ModelWeights, DraftGap):
            query = sa.select(table).order_by(*sa.inspect(table).primary_key)
            found[table.__tablename__] = [tuple(row) for row in connection.execute(query)]
    return found


def test_drafts_of_before_get_the_rows_that_new_ones_have(engine, sessions, database_url):
    gaps = [{"what": "brain", "why": "no expert for it"}]
    first = received(sessions, "1.2.826.0.1").queued().running().drafted(provenance=models("1.0"), not_assessed=gaps)
    second = received(sessions, "1.2.826.0.2").queued().running().drafted()  # of a record that names no models
    before = _rows(engine)
    kinds = {(row[0], row[1], row[2], row[3], row[4]) for row in before["draft_model"]}
    assert kinds == {
        (first.draft_id, "vlm", "vila", "1.0", VLM_WEIGHTS),
        (first.draft_id, "expert", "CXR", "1", CXR_WEIGHTS),
        (second.draft_id, "expert", "CXR", "1", CXR_WEIGHTS),
    }
    assert {row[2] for row in before["model_weights"]} == {*VLM_FILES.values(), CXR_WEIGHTS}
    assert [row[:4] for row in before["draft_gap"]] == [(first.draft_id, 0, "brain", "no expert for it")]

    engine.dispose()
    command.downgrade(alembic_config(database_url), "0029")
    migrate(database_url)
    assert _rows(engine) == before


def test_the_hash_of_a_set_depends_on_every_file_and_on_no_order():
    swapped = dict(reversed(VLM_FILES.items()))
    assert weights_digest(VLM_FILES) == weights_digest(swapped) == VLM_WEIGHTS
    assert weights_digest({"a": "1" * 64, "b": "3" * 64}) != weights_digest({"a": "1" * 64, "b": "2" * 64})
    assert (weights_digest({"one": "7" * 64}), weights_digest({})) == ("7" * 64, "")
