"""The worker process: a Celery worker that reads Studies."""

from celery import Celery
from celery.signals import setup_logging, worker_process_init
from sqlalchemy.orm import Session, sessionmaker
from transformers.utils.logging import disable_progress_bar

from config.broker import make_celery
from config.logs import configure_logs
from config.settings import Settings
from db.audit import AuditTag
from db.engine import make_engine, make_sessions
from db.uow import Actor, unit_of_work
from worker.pipeline import StudyPipeline
from worker.reader import Reader
from worker.tasks import register


def make_worker(settings: Settings, sessions: sessionmaker[Session]) -> Celery:
    """Return a Celery app whose one task reads a Study."""
    app = make_celery(settings)
    register(app, Reader(sessions, settings, StudyPipeline(sessions, settings)))
    return app


def run_worker(settings: Settings) -> None:
    """Serve until SIGTERM; a Reading in work is finished, or given back when its lease ends."""
    engine = make_engine(settings.database)
    sessions = make_sessions(engine)
    app = make_worker(settings, sessions)

    def after_fork(**_: object) -> None:
        # connections must not be shared with the parent
        engine.dispose(close=False)

    def our_logs(**_: object) -> None:
        # a progress bar is no log line
        disable_progress_bar()
        configure_logs(level=settings.log_level, json=settings.log_json, process="worker")

    worker_process_init.connect(after_fork, weak=False)
    setup_logging.connect(our_logs, weak=False)
    _record(sessions, AuditTag.PROCESS_STARTED)
    try:
        app.worker_main(
            [
                "worker",
                f"--concurrency={settings.worker.concurrency}",
                # one child process a slot: it can be killed when a task passes its time limit
                "--pool=prefork",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
                "--hostname=worker@%h",
            ]
        )
    finally:
        _record(sessions, AuditTag.PROCESS_STOPPED)


def _record(sessions: sessionmaker[Session], tag: AuditTag) -> None:
    with unit_of_work(sessions, Actor("worker", "process")) as uow:
        uow.audit(tag, object_type="process", object_id="worker")
