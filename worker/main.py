"""The worker process: a Celery worker that reads Studies."""

from celery import Celery
from celery.signals import setup_logging, worker_process_init, worker_process_shutdown
from sqlalchemy.orm import Session, sessionmaker
from transformers.utils.logging import disable_progress_bar

from config.broker import make_celery
from config.logs import configure_logs
from config.settings import Settings
from db.engine import make_engine, make_sessions
from db.starting import record_start, record_stop
from worker.asking import answer_questions
from worker.pipeline import StudyPipeline
from worker.presence import Presence
from worker.reader import Reader
from worker.redrafting import make_drafts_anew
from worker.tasks import register, register_errands


def make_worker(settings: Settings, sessions: sessionmaker[Session]) -> Celery:
    """Return a Celery app whose tasks read Studies, answer questions and draft anew, with one set of models."""
    return _with_tasks(settings, sessions, StudyPipeline(sessions, settings))


def _with_tasks(settings: Settings, sessions: sessionmaker[Session], pipeline: StudyPipeline) -> Celery:
    app = make_celery(settings)
    register(app, Reader(sessions, settings, pipeline))
    register_errands(
        app,
        questions=answer_questions(pipeline, sessions, settings),
        redrafts=make_drafts_anew(pipeline, sessions, settings),
    )
    return app


def run_worker(settings: Settings) -> None:
    """Serve until SIGTERM; a Reading in work is finished, or given back when its lease ends."""
    engine = make_engine(settings.database)
    sessions = make_sessions(engine)
    pipeline = StudyPipeline(sessions, settings)
    app = _with_tasks(settings, sessions, pipeline)
    presence = Presence(sessions, settings, pipeline.warm)

    def after_fork(**_: object) -> None:
        # connections must not be shared with the parent
        engine.dispose(close=False)
        presence.start()

    def before_end(**_: object) -> None:
        presence.stop()

    def our_logs(**_: object) -> None:
        # a progress bar is no log line
        disable_progress_bar()
        configure_logs(level=settings.log_level, json=settings.log_json, process="worker")

    worker_process_init.connect(after_fork, weak=False)
    worker_process_shutdown.connect(before_end, weak=False)
    setup_logging.connect(our_logs, weak=False)
    record_start(sessions, settings, "worker")
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
        record_stop(sessions, "worker")
