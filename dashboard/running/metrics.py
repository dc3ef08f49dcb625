"""Figures for a monitor, in Prometheus' text format; no label has a value of a patient, and all have few values."""

import ipaddress
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from flask import Blueprint, Response, current_app, request
from flask.typing import ResponseReturnValue
from flask_login import current_user
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session, sessionmaker
from werkzeug.exceptions import HTTPException

from config.settings import Settings
from dashboard.dicomweb.door import admit_token
from dashboard.people import sessions, site
from dashboard.permissions import Permission, requires
from db.queries.audit_telling import Backlog, forwarding_backlog
from db.queries.figures import Figures, Latency, figures
from db.tokens import Scope
from db.types import QueueMode, utcnow

bp = Blueprint("metrics", __name__)
_REGISTRY = "firstread.metrics"
_FRESH_S = 5.0
_FORWARDED = ("X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Forwarded", "Via")
_MOST_DESTINATIONS = 100
_MOST_MODELS = 50


@bp.get("/metrics")
@requires(Permission.PUBLIC)
def show() -> ResponseReturnValue:
    """Return the figures; to this machine itself, to a token with scope ``metrics``, to who runs the system.

    What a proxy on this machine passes on does not count as from this machine.
    """
    may = not current_user.is_anonymous and current_user.may(Permission.RUNNING)
    if not may and ("Authorization" in request.headers or not _is_from_here()):
        try:
            admit_token(Scope.METRICS)
        except HTTPException as exc:
            return exc.get_response()  # for a machine: no page, and the challenge of RFC 9110 section 11.6.1
    registry: CollectorRegistry | None = current_app.extensions.get(_REGISTRY)
    if registry is None:
        registry = current_app.extensions.setdefault(_REGISTRY, make_registry(site(), sessions()))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


show.passive = True  # type: ignore[attr-defined]  # does not keep a session alive


def _is_from_here() -> bool:
    address = request.remote_addr or ""
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def make_registry(settings: Settings, made: sessionmaker[Session]) -> CollectorRegistry:
    """Return a registry of our own figures and nothing else."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(settings, made))
    return registry


class _Figures(Collector):
    """Asks the database at every scrape, at most every five seconds."""

    def __init__(self, settings: Settings, made: sessionmaker[Session]) -> None:
        self._settings = settings
        self._sessions = made
        self._began = time.time()
        self._asking = threading.Lock()
        self._asked_at = float("-inf")
        self._kept = Figures()
        self._behind: list[Backlog] = []

    def collect(self) -> Iterable[Metric]:
        """Return every figure."""
        with self._asking:
            if time.monotonic() - self._asked_at >= _FRESH_S:
                with self._sessions() as db:
                    self._kept = figures(db, utcnow())
                    self._behind = forwarding_backlog(db, self._settings.audit.syslog.sink)
                self._asked_at = time.monotonic()
            kept, behind = self._kept, self._behind
        yield from _process(self._began)
        yield from _received(kept)
        yield from _pipeline(kept)
        yield from _reporting(kept)
        yield from _sending(kept)
        yield from _audit(behind)
        yield from self._disk()

    def _disk(self) -> Iterator[Metric]:
        total = GaugeMetricFamily("firstread_disk_bytes", "File system of the received images.", labels=["kind"])
        try:
            disk = shutil.disk_usage(self._settings.instances_dir)
        except OSError:  # the folder is not there: /readyz says so
            return
        total.add_metric(["size"], disk.total)
        total.add_metric(["free"], disk.free)
        floor = max(self._settings.retention.refuse_free_bytes, self._settings.dicom.min_free_bytes)
        total.add_metric(["refused_below"], floor)
        yield total


def _process(began: float) -> Iterator[Metric]:
    info = InfoMetricFamily("firstread_build", "The release that answers.")
    info.add_metric([], {"version": _version()})
    yield info
    yield _gauge("firstread_web_start_time_seconds", "When this process began to count, Unix time.", began)
    yield _gauge("firstread_web_process_id", "The process that answers.", os.getpid())


def _received(kept: Figures) -> Iterator[Metric]:
    yield _counter("firstread_studies_received_total", "Studies received, also for comparison.", kept.studies)
    yield _counter("firstread_instances_received_total", "Instances received and kept.", kept.instances)
    yield _counters("firstread_associations_total", "Associations peers asked for.", "outcome", kept.associations)
    yield _gauge("firstread_quarantined", "Objects refused or doubted, and kept for a person.", kept.quarantined)


def _pipeline(kept: Figures) -> Iterator[Metric]:
    yield _labelled("firstread_readings", "Runs of the pipeline, superseded ones too.", "state", kept.readings)
    yield _gauge("firstread_queue_oldest_seconds", "How long the oldest Reading waits.", kept.oldest_waiting_s)
    modes = {mode.value: int(mode.value == kept.queue_mode) for mode in QueueMode}
    yield _labelled("firstread_queue_mode", "1 for the mode the queue is in.", "mode", modes)
    yield _gauge("firstread_workers", "Worker processes seen within a minute.", kept.workers)
    yield _gauge("firstread_workers_warm", "Of these, with the language model loaded.", kept.workers_warm)
    words = "Seconds a step took, of Readings that ended in the last day"
    yield _quantiles("firstread_stage_quantile_seconds", f"{words}: quantiles.", "stage", kept.latency)
    counts = {stage: one.count for stage, one in kept.latency.items()}
    yield _labelled("firstread_stage_readings_last_day", "Readings these quantiles are of.", "stage", counts)
    drafts = GaugeMetricFamily("firstread_drafts_last_day", "Drafts by language model.", labels=["model", "version"])
    for (name, model_version), number in sorted(kept.drafts.items())[:_MOST_MODELS]:
        drafts.add_metric([name, model_version], number)
    yield drafts


def _reporting(kept: Figures) -> Iterator[Metric]:
    yield _labelled("firstread_reports", "Reports by state.", "state", kept.reports)
    yield _counters("firstread_signatures_total", "Signatures by state.", "state", kept.signatures)
    yield _counter("firstread_drafts_rejected_total", "Drafts that a reader refused.", kept.rejected)
    turnaround = {"complete_to_signed": kept.turnaround} if kept.turnaround else {}
    yield _quantiles(
        "firstread_turnaround_quantile_seconds",
        "Seconds from a complete Study to its first signature, of those signed in the last day.",
        "step",
        turnaround,
    )
    yield _gauge("firstread_critical_open", "Critical results nobody was told of yet.", kept.critical_open)


def _sending(kept: Figures) -> Iterator[Metric]:
    names = sorted({name for name, _ in kept.deliveries})[:_MOST_DESTINATIONS]
    deliveries = GaugeMetricFamily("firstread_deliveries", "Results owed and sent.", labels=["destination", "state"])
    for (name, state), number in sorted(kept.deliveries.items()):
        if name in names:
            deliveries.add_metric([name, state], number)
    yield deliveries
    oldest = {name: age for name, age in kept.oldest_delivery_s.items() if name in names}
    yield _labelled("firstread_delivery_oldest_seconds", "How long the oldest result waits.", "destination", oldest)


def _audit(behind: Sequence[Backlog]) -> Iterator[Metric]:
    now = utcnow()
    waiting = {one.sink: one.waiting for one in behind}
    yield _labelled("firstread_audit_waiting", "Events not sent to the audit repository yet.", "sink", waiting)
    oldest = {one.sink: one.waits_s(now) for one in behind}
    yield _labelled("firstread_audit_oldest_seconds", "How long the oldest of them waits.", "sink", oldest)


def _quantiles(name: str, words: str, label: str, found: Mapping[str, Latency]) -> Metric:
    metric = GaugeMetricFamily(name, words, labels=[label, "quantile"])
    for key, one in found.items():
        metric.add_metric([key, "0.5"], one.p50_s)
        metric.add_metric([key, "0.95"], one.p95_s)
    return metric


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=value)


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(name, words, value=value)


def _labelled(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    metric = GaugeMetricFamily(name, words, labels=[label])
    for key, value in values.items():
        metric.add_metric([key], value)
    return metric


def _counters(name: str, words: str, label: str, values: Mapping[str, float]) -> Metric:
    metric = CounterMetricFamily(name, words, labels=[label])
    for key, value in values.items():
        metric.add_metric([key], value)
    return metric


def _version() -> str:
    try:
        return version("firstread")
    except PackageNotFoundError:  # run from its folder, not installed
        return "unknown"
