"""Celery as every process needs it: task names, and an app wired to the configured broker."""

from enum import StrEnum
from typing import TYPE_CHECKING

from config.settings import Settings

if TYPE_CHECKING:  # most processes need the task names only, and Celery is large
    from celery import Celery


class TaskName(StrEnum):
    """Tasks that one process asks of another; names are the only thing they share."""

    READ_STUDY = "firstread.read_study"
    ANSWER_QUESTION = "firstread.answer_question"
    REDRAFT = "firstread.redraft"


def make_celery(settings: Settings, name: str = "firstread") -> "Celery":
    """Return a Celery app that has opened nothing yet.

    The broker only wakes workers; the database is the truth. So results are off, a message is
    acknowledged late, and a worker takes one at a time.
    """
    from celery import Celery

    folder = settings.data_dir.resolve() / "broker"
    app = Celery(name, broker=settings.broker_url or "filesystem://", set_as_current=False)
    app.conf.update(
        broker_connection_retry_on_startup=True,
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_default_queue="firstread",
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        task_soft_time_limit=settings.worker.soft_time_limit_s,
        task_time_limit=settings.worker.time_limit_s,
    )
    options: dict[str, object] = {}
    if not settings.broker_url:
        for part in ("queue", "control"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        options = {
            "data_folder_in": str(folder / "queue"),
            "data_folder_out": str(folder / "queue"),
            "control_folder": str(folder / "control"),
        }
    elif settings.broker_url.startswith("redis"):
        # longer than the longest task, else Redis hands a running task to a second worker
        options = {"visibility_timeout": settings.worker.time_limit_s + 600}
    app.conf.broker_transport_options = options
    return app
