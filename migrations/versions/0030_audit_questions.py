"""The audit trail: which models had a part in which drafts, and what drafts did not assess, in rows that can be found.

Safe while the previous release runs: it reads none of this. What it drafts meanwhile gets no rows, but its processes
are stopped for 0026, which is of the same release. Drafts that are there get theirs from their provenance records.

Revision: 0030
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_draft_model_created", ["created_at", "draft_id", "kind", "package"]),
    ("ix_draft_model_package", ["package", "created_at", "draft_id"]),
    ("ix_draft_model_version", ["package", "version", "created_at", "draft_id"]),
    ("ix_draft_model_weights", ["weights_sha256", "created_at", "draft_id"]),
    ("ix_draft_model_site", ["site", "created_at", "draft_id"]),
)
_OTHERS = (
    ("ix_draft_outcome_reader", "draft_outcome", ["reader_id", "decided_at", "draft_id"]),
    ("ix_draft_outcome_model", "draft_outcome", ["model", "decided_at", "draft_id"]),
    ("ix_signature_draft_id", "signature", ["draft_id"]),
)
_AT_ONCE = 500


def upgrade() -> None:
    models = op.create_table(
        "draft_model",
        sa.Column("draft_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("package", sa.String(length=64), nullable=False),
        sa.Column("version", sa.String(length=64), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("site", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["draft_id"], ["draft.id"], name=op.f("fk_draft_model_draft_id_draft")),
        sa.PrimaryKeyConstraint("draft_id", "kind", "package", name=op.f("pk_draft_model")),
    )
    weights = op.create_table(
        "model_weights",
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("file", sa.String(length=200), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("weights_sha256", "file", name=op.f("pk_model_weights")),
    )
    gaps = op.create_table(
        "draft_gap",
        sa.Column("draft_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("what", sa.String(length=200), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["draft_id"], ["draft.id"], name=op.f("fk_draft_gap_draft_id_draft")),
        sa.PrimaryKeyConstraint("draft_id", "position", name=op.f("pk_draft_gap")),
    )
    _fill(models, weights, gaps)
    for name, columns in _INDEXES:
        op.create_index(name, "draft_model", columns)
    op.create_index(op.f("ix_model_weights_sha256"), "model_weights", ["sha256"])
    op.create_index("ix_draft_gap_created", "draft_gap", ["created_at", "draft_id", "position"])
    for name, table, columns in _OTHERS:
        op.create_index(name, table, columns)
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON draft_model "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    else:
        for act in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER draft_model_no_{act.lower()} BEFORE {act} ON draft_model "
                "BEGIN SELECT RAISE(ABORT, 'draft_model is append-only'); END"
            )


def downgrade() -> None:
    for name, table, _ in _OTHERS:
        op.drop_index(name, table)
    for table in ("draft_gap", "model_weights", "draft_model"):
        op.drop_table(table)


def _fill(models: sa.Table, weights: sa.Table, gaps: sa.Table) -> None:
    """Write the rows of the drafts there are, as db.lifecycle.draft_index does since."""
    draft = sa.table(
        "draft", sa.column("id", sa.Uuid), sa.column("study_id", sa.Uuid), sa.column("provenance", sa.JSON),
        sa.column("not_assessed", sa.JSON), sa.column("created_at", sa.DateTime(timezone=True)),
    )  # fmt: skip
    study = sa.table("study", sa.column("id", sa.Uuid), sa.column("calling_ae", sa.String))
    evidence = sa.table(
        "evidence", sa.column("draft_id", sa.Uuid), sa.column("expert", sa.String), sa.column("version", sa.String),
        sa.column("weights_sha256", sa.JSON),
    )  # fmt: skip
    bind, known, last = op.get_bind(), set(), None
    query = sa.select(draft, study.c.calling_ae).join(study, study.c.id == draft.c.study_id)
    query = query.order_by(draft.c.id).limit(_AT_ONCE)
    while rows := bind.execute(query if last is None else query.where(draft.c.id > last)).all():
        last = rows[-1].id
        runs: dict[object, list[sa.Row]] = {}
        for run in bind.execute(sa.select(evidence).where(evidence.c.draft_id.in_([row.id for row in rows]))):
            runs.setdefault(run.draft_id, []).append(run)
        made = [one for row in rows for one in _models(row, runs.get(row.id, []))]
        files = {(one["weights_sha256"], name[:200]): sha[:64] for one in made for name, sha in one.pop("files").items()}
        new = {key: sha for key, sha in files.items() if key not in known}
        known |= set(new)
        _insert(models, made)
        _insert(weights, [{"weights_sha256": of, "file": name, "sha256": sha} for (of, name), sha in new.items()])
        _insert(gaps, [
            {"draft_id": row.id, "position": at, "what": str(one.get("what", ""))[:200], "why": str(one.get("why", "")),
             "created_at": row.created_at}
            for row in rows for at, one in enumerate(row.not_assessed or ())
        ])  # fmt: skip


def _insert(table: sa.Table, rows: list[dict]) -> None:
    if rows:
        op.bulk_insert(table, rows)


def _models(row: sa.Row, runs: list[sa.Row]) -> list[dict]:
    found: dict[tuple[str, str], dict] = {}
    recorded = row.provenance if isinstance(row.provenance, dict) else json.loads(row.provenance or "{}")
    for one in recorded.get("models") or ():
        kind = "vlm" if one.get("role") == "VLM" else "expert"
        found.setdefault((kind, str(one.get("name", ""))[:64]), _model(one.get("version", ""), one.get("weights_sha256")))
    for run in runs:
        found.setdefault(("expert", run.expert[:64]), _model(run.version, run.weights_sha256))
    whole = {"draft_id": row.id, "site": row.calling_ae or "", "created_at": row.created_at}
    return [{"kind": kind, "package": package, **whole, **about} for (kind, package), about in found.items()]


def _model(version: object, weights: dict | None) -> dict:
    weights = weights or {}
    lines = "\n".join(f"{name}:{sha}" for name, sha in sorted(weights.items()))
    digest = hashlib.sha256(lines.encode()).hexdigest() if weights else ""
    if len(weights) == 1:
        digest = next(iter(weights.values()))[:64]
    return {"version": str(version)[:64], "weights_sha256": digest, "files": weights}
