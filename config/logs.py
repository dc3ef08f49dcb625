"""structlog with a field allow-list: nothing about a patient can reach a log line.

A static ``noun.verb`` event, then fields. A field that is not listed here is dropped and only its
*name* is logged, so a name, a UID or a Dataset passed by mistake cannot leave the process.
"""

import logging
import re
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TextIO

import structlog

ALLOWED_FIELDS = frozenset({
    "association", "attempt", "bytes", "calling_ae", "called_ae", "child", "count", "delivery_id", "destination",
    "draft_id", "error", "event", "exit_code", "expert", "hint", "host", "instances", "level", "logger", "model", "pid",
    "port", "process", "profile", "question_id", "queue", "reading_id", "redraft_id", "report_id", "request_id",
    "revision", "rounds", "rule", "seconds", "state", "status", "step", "study_id", "task", "timestamp", "tokens",
    "user_id", "version", "where",
})  # fmt: skip
_NAME = re.compile(r"^[a-z_]+(\.[a-z_]+)+$")
_FOREIGN_EVENT = "library.message"


def _where(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace a traceback, whose lines may quote values, by the files and lines it went through."""
    info = fields.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        fields["where"] = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
        fields.setdefault("error", type(error).__name__)
    return fields


def _keep_allowed(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop what is not listed; keep only the names of what was dropped."""
    dropped = sorted(k for k in fields if k not in ALLOWED_FIELDS and not k.startswith("_"))
    kept = {k: v for k, v in fields.items() if k in ALLOWED_FIELDS or k.startswith("_")}
    if not _NAME.match(str(kept.get("event", ""))):
        # an f-string, or a library's own sentence: its text may hold anything
        kept["event"] = _FOREIGN_EVENT
    for key, value in kept.items():
        if key == "error" and isinstance(value, BaseException):
            kept[key] = type(value).__name__
        elif not key.startswith("_") and not isinstance(value, str | int | float | bool | None):
            kept[key] = str(value)
    if dropped:
        kept["dropped"] = ",".join(re.sub(r"[^A-Za-z0-9_]", "?", name)[:32] for name in dropped)
    return kept


def configure_logs(*, level: str, json: bool, process: str, stream: TextIO | None = None) -> None:
    """Send structlog and the libraries' standard logging through the allow-list to ``stream``."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=False)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[_where, _keep_allowed, structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
    )
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Python warnings of pydicom and highdicom quote values
    logging.captureWarnings(True)
    # their sentences are dropped anyway: only what is an error is worth a line
    for noisy in ("pynetdicom", "pydicom", "py.warnings", "alembic", "celery.worker.strategy", "PIL", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(process=process)
