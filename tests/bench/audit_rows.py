"""The rows around the benchmark's audit trail: studies, readings, drafts, findings, reports, signatures, deliveries."""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import date, datetime, timedelta
from hashlib import sha256
from multiprocessing import get_context
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import sql

from db.audit_draft_models import DraftGap, DraftModel
from db.audit_tally_models import PerformanceTally
from db.critical_models import CriticalAlert
from db.engine import make_engine
from db.models import Base, Delivery, Reading, ResultObject, Series, Study
from db.quality_models import DraftOutcome
from db.report_models import Amendment, Draft, Evidence, Finding, Report, ReportRevision, Signature, UserAccount
from db.signing_models import ImageView, SafetyCheck
from tests.bench.audit_site import EPOCH, MODELS, READERS, SPAN, Site, key_of, reader_of, without_triggers

_ZERO = "0" * 64
Row = dict[str, Any]


def weights_of(model: int) -> str:
    """SHA-256 of the weights of a model version."""
    return sha256(f"weights{model}".encode()).hexdigest()


def model_of(site: Site, number: int) -> int:
    """Which model version drafted the study: they follow each other in time, each for a twentieth of it."""
    return min(number * len(MODELS) // site.drafts, len(MODELS) - 1)


def _study(site: Site, n: int) -> Iterator[Row]:
    at = site.at(n)
    yield {
        "id": key_of("study", n), "study_instance_uid": f"1.2.826.0.1.3680043.10.98.{n}",
        "patient_id": f"P-{n // 3:07d}", "issuer_of_patient_id": "", "patient_name": f"Bench^Nr{n}",
        "patient_birth_date": f"{1930 + n % 80}0{1 + n % 9}11", "patient_sex": "FM"[n % 2],
        "accession_number": f"ACC{n:08d}", "study_date": f"{at:%Y%m%d}", "study_time": f"{at:%H%M%S}",
        "modalities": ("CT", "DX", "MR")[n % 3], "calling_ae": f"SCANNER{n % 12}", "revision": 1, "instance_count": 2,
        "quiet_s": 10, "first_received_at": at, "last_received_at": at,
    }  # fmt: skip


def _series(site: Site, n: int) -> Iterator[Row]:
    del site
    yield {
        "id": key_of("series", n), "study_id": key_of("study", n),
        "series_instance_uid": f"1.2.826.0.1.3680043.10.98.{n}.1", "modality": ("CT", "DX", "MR")[n % 3],
        "manufacturer": f"Maker{n % 4}", "manufacturer_model": f"Model{n % 8}",
    }  # fmt: skip


def _reading(site: Site, n: int) -> Iterator[Row]:
    at = site.at(n)
    failed = n % 50 == 7
    yield {
        "id": key_of("reading", n), "study_id": key_of("study", n), "revision": 1, "pipeline_version": "firstread",
        "state": "NO_DRAFT" if failed else "DRAFTED", "reason": "the input is not supported" if failed else "",
        "priority": "ROUTINE", "use": "clinical", "rule_trace": [], "created_at": at, "completed_at": at,
        "started_at": at, "finished_at": at + timedelta(minutes=1),
    }  # fmt: skip


def _draft(site: Site, n: int) -> Iterator[Row]:
    name, version = MODELS[model_of(site, n)]
    weights = {"model.safetensors": weights_of(model_of(site, n))}
    model = {"role": "expert", "name": name, "version": version, "weights_sha256": weights}
    yield {
        "id": key_of("draft", n), "reading_id": key_of("reading", n), "study_id": key_of("study", n),
        "sections": {"findings": "None.", "impression": "None."}, "not_assessed": [], "marks": [],
        "demonstration": False, "image_set_sha256": _ZERO, "provenance": {"models": [model], "experts": []},
        "created_at": site.at(n) + timedelta(minutes=1),
    }  # fmt: skip


def _draft_model(site: Site, n: int) -> Iterator[Row]:
    name, version = MODELS[model_of(site, n)]
    both = (("expert", name, version, weights_of(model_of(site, n))), ("vlm", "demo-vlm", "1.0.0", "1" * 64))
    for kind, package, release, weights in both:
        yield {
            "draft_id": key_of("draft", n), "kind": kind, "package": package, "version": release,
            "weights_sha256": weights, "site": f"SCANNER{n % 12}", "created_at": site.at(n) + timedelta(minutes=1),
        }  # fmt: skip


def _evidence(site: Site, n: int) -> Iterator[Row]:
    name, version = MODELS[model_of(site, n)]
    yield {
        "id": key_of("evidence", n), "draft_id": key_of("draft", n), "expert": name, "version": version,
        "argument": "", "weights_sha256": {"weights": weights_of(model_of(site, n))}, "seconds": 1.5, "output": {},
        "series_instance_uid": "", "label_map_path": "", "created_at": site.at(n) + timedelta(minutes=1),
    }  # fmt: skip


def _finding(site: Site, n: int) -> Iterator[Row]:
    decision = ("accepted", "accepted", "accepted", "edited", "rejected")[n % 5]
    yield {
        "id": key_of("finding", n), "draft_id": key_of("draft", n), "position": 0,
        "label": ("Pneumothorax", "Effusion", "Nodule")[n % 3], "presence": ("present", "absent")[n % 2],
        "source": MODELS[model_of(site, n)][0], "measurements": [], "key_slice": {}, "decision": decision,
        "decided_by": key_of("user", reader_of(n)), "decided_at": site.at(n) + timedelta(minutes=9),
    }  # fmt: skip


def _report(site: Site, n: int) -> Iterator[Row]:
    at = site.at(n)
    yield {
        "id": key_of("report", n), "study_id": key_of("study", n), "draft_id": key_of("draft", n),
        "state": "ADDENDED" if n % 100 == 3 else "FINAL",
        "sections": {"findings": "None at all.", "impression": "None."}, "lane": "signed", "urgency": 3,
        "listed_at": at, "created_at": at, "updated_at": at, "version": 4,
    }  # fmt: skip


def _revision(site: Site, n: int) -> Iterator[Row]:
    yield {
        "id": key_of("revision", n), "report_id": key_of("report", n), "number": 1,
        "sections": {"findings": "None at all.", "impression": "None."}, "author_id": key_of("user", reader_of(n)),
        "created_at": site.at(n) + timedelta(minutes=10),
    }  # fmt: skip


def _signature(site: Site, n: int) -> Iterator[Row]:
    for kind, state, after in (("signature", "FINAL", 11), ("second", "ADDENDED", 3000)):
        if state == "FINAL" or n % 100 == 3:
            at = site.at(n) + timedelta(minutes=after)
            yield {
                "id": key_of(kind, n), "report_id": key_of("report", n), "user_id": key_of("user", reader_of(n)),
                "printed_name": "Reader", "meaning": "I have read the images.", "state": state,
                "authenticated_at": at - timedelta(seconds=10), "signed_at": at, "text_sha256": _ZERO,
                "draft_id": key_of("draft", n), "image_set_sha256": _ZERO,
            }  # fmt: skip


def _amendment(site: Site, n: int) -> Iterator[Row]:
    if n % 100 == 3:
        yield {
            "id": key_of("amendment", n), "report_id": key_of("report", n), "signature_id": key_of("second", n),
            "state": "ADDENDED", "number": 1, "text": "A small nodule was seen later.",
            "created_at": site.at(n) + timedelta(minutes=3000),
        }  # fmt: skip


def _object(site: Site, n: int) -> Iterator[Row]:
    yield {
        "id": key_of("object", n), "study_id": key_of("study", n), "draft_id": key_of("draft", n),
        "signature_id": key_of("signature", n), "kind": "signed_sr", "sop_instance_uid": f"2.25.{n}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.33", "sha256": _ZERO, "path": "x",
        "created_at": site.at(n) + timedelta(minutes=11),
    }  # fmt: skip


def _delivery(site: Site, n: int) -> Iterator[Row]:
    at = site.at(n) + timedelta(minutes=12)
    yield {
        "id": key_of("delivery", n), "result_object_id": key_of("object", n), "destination": "PACS",
        "state": "FAILED" if n % 2000 == 9 else "DELIVERED", "attempts": 1, "next_attempt_at": at, "created_at": at,
        "delivered_at": at, "commitment": "COMMITTED", "version": 3,
    }  # fmt: skip


def _outcome(site: Site, n: int) -> Iterator[Row]:
    at = site.at(n)
    name, version = MODELS[model_of(site, n)]
    yield {
        "id": key_of("outcome", n), "draft_id": key_of("draft", n), "study_id": key_of("study", n),
        "reader_id": key_of("user", reader_of(n)), "verdict": ("unchanged", "edited")[n % 2], "demonstration": False,
        "model": f"{name} {version}", "modality": ("CT", "DX", "MR")[n % 3], "body_part": "CHEST",
        "scanner": f"Maker{n % 4} Model{n % 8}", "sex": "FM"[n % 2], "age_group": f"{n % 9}0-{n % 9}9",
        "words_drafted": 9, "words_signed": 9 + n % 7, "edits": n % 7, "changed_sections": [], "received_at": at,
        "drafted_at": at + timedelta(minutes=1), "decided_at": at + timedelta(minutes=11),
    }  # fmt: skip


def _gap(site: Site, n: int) -> Iterator[Row]:
    if n % 40 == 11:
        yield {
            "draft_id": key_of("draft", n), "position": 0, "what": MODELS[model_of(site, n)][0],
            "why": "it took too long", "created_at": site.at(n) + timedelta(minutes=1),
        }  # fmt: skip


def _alert(site: Site, n: int) -> Iterator[Row]:
    if n % 200 == 5:
        at = site.at(n) + timedelta(minutes=2)
        yield {
            "id": key_of("alert", n), "study_id": key_of("study", n), "label": "Pneumothorax", "found_by": "CXR",
            "category": 1, "state": "COMMUNICATED", "opened_at": at, "confirmed_at": at + timedelta(minutes=4),
            "closed_at": at + timedelta(minutes=9), "clock_at": at, "version": 3,
        }  # fmt: skip


def _view(site: Site, n: int) -> Iterator[Row]:
    at = site.at(n) + timedelta(minutes=8)
    yield {
        "id": key_of("view", n), "study_id": key_of("study", n), "user_id": key_of("user", reader_of(n)),
        "seconds": float(n % 90), "opened_at": at, "counted_at": at, "images_at": at,
    }  # fmt: skip


def _check(site: Site, n: int) -> Iterator[Row]:
    yield {
        "id": key_of("check", n), "signature_id": key_of("signature", n), "report_id": key_of("report", n),
        "text_sha256": _ZERO, "rules": "1", "issues": [], "view_s": float(n % 90),
        "created_at": site.at(n) + timedelta(minutes=11),
    }  # fmt: skip


MADE: Mapping[type[Base], Callable[[Site, int], Iterator[Row]]] = {
    Study: _study, Series: _series, Reading: _reading, Draft: _draft, DraftModel: _draft_model, Evidence: _evidence,
    Finding: _finding,
    Report: _report, ReportRevision: _revision, Signature: _signature, Amendment: _amendment, ResultObject: _object,
    Delivery: _delivery, DraftOutcome: _outcome, DraftGap: _gap, CriticalAlert: _alert,
    ImageView: _view, SafetyCheck: _check,
}  # fmt: skip


def fill_rows(url: str, site: Site) -> None:
    """Put the site's rows into a migrated database, two processes at a time."""
    engine = make_engine(url)
    with engine.begin() as connection:
        connection.execute(
            sa.insert(UserAccount),
            [
                {"id": key_of("user", n), "login": f"reader{n}", "printed_name": f"Reader {n}", "role": "radiologist",
                 "password_hash": ""}
                for n in range(READERS)
            ],
        )  # fmt: skip
        connection.execute(sa.insert(PerformanceTally), list(_tallies(site)))
    if engine.dialect.name == "sqlite":
        with without_triggers(url) as connection:
            for model in MADE:
                _insert(connection, site, model)
    engine.dispose()
    if engine.dialect.name == "sqlite":
        return
    plain = url.replace("+psycopg", "")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(_copy, plain, site, model) for model in MADE]:
            done.result()


def _tallies(site: Site) -> Iterator[Row]:
    """Yield the counts of each day, group and label of the model of the day, as the decisions raise them."""
    groups = {
        "all": [""],
        "age_group": [f"{n}0-{n}9" for n in range(9)],
        "sex": ["F", "M"],
        "scanner": [f"Maker{n % 4} Model{n}" for n in range(8)],
        "site": [f"SCANNER{n}" for n in range(12)],
    }
    for day in range(SPAN.days):
        name, version = MODELS[day * len(MODELS) // SPAN.days]
        for dimension, values in groups.items():
            for value in values:
                for label in ("Pneumothorax", "Effusion", "Nodule"):
                    yield {
                        "dimension": dimension, "day": (EPOCH + timedelta(days=day)).date(), "value": value,
                        "model": f"{name} {version}", "label": label, "demonstration": False,
                        "tp": site.drafts // 20_000, "fp": 1, "fn": 1, "tn": site.drafts // 20_000,
                    }  # fmt: skip


def _insert(connection: sqlite3.Connection, site: Site, model: type[Base]) -> None:
    """Insert every row of one table into SQLite."""
    make, defaults = MADE[model], _defaults(model)
    kinds = {column.name: column.type for column in model.__table__.columns}
    names = [*next(row for n in range(site.drafts) for row in make(site, n))]
    names += [name for name in defaults if name not in names]
    marks = ", ".join("?" * len(names))
    statement = f"INSERT INTO {model.__table__.name} ({', '.join(names)}) VALUES ({marks})"
    rows = (
        [_bound({**defaults, **row}[name], kinds[name]) for name in names]
        for n in range(site.drafts)
        for row in make(site, n)
    )
    connection.executemany(statement, rows)
    connection.commit()


def _bound(value: Any, kind: Any) -> Any:
    """Return a value as SQLAlchemy would have SQLite store it."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S.%f")
    if isinstance(kind, sa.Uuid) and value is not None:
        return value.hex
    return getattr(value, "value", value)


def _copy(url: str, site: Site, model: type[Base]) -> None:
    """COPY every row of one table; its indexes are made after."""
    make = MADE[model]
    defaults = _defaults(model)
    table = model.__table__
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")  # the worklist's triggers, and foreign keys
        first = next(row for n in range(site.drafts) for row in make(site, n))
        names = [*first, *(name for name in defaults if name not in first)]
        statement = sql.SQL("COPY {} ({}) FROM STDIN").format(
            sql.Identifier(str(table.name)), sql.SQL(", ").join(map(sql.Identifier, names))
        )
        with cursor.copy(statement) as copy:
            for number in range(site.drafts):
                for row in make(site, number):
                    filled = {**defaults, **row}
                    copy.write("\t".join(_text(filled[name]) for name in names) + "\n")


def _defaults(model: type[Base]) -> Row:
    """What SQLAlchemy would fill in, where it is a plain value; the columns that may be empty stay so."""
    found: Row = {}
    for column in model.__table__.columns:
        default: Any = column.default
        if default is not None and default.is_scalar:
            found[column.name] = default.arg
        elif isinstance(column.type, sa.JSON):
            found[column.name] = [] if "list" in str(getattr(default, "arg", "")) else {}
    return found


def _text(value: Any) -> str:
    """Return a value as COPY reads it."""
    if value is None:
        return "\\N"
    if isinstance(value, dict | list):
        return json.dumps(value).replace("\\", "\\\\")
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, bool):
        return "t" if value else "f"
    return str(getattr(value, "value", value)).replace("\\", "\\\\").replace("\t", " ").replace("\n", " ")
