"""``firstread up``: prepare, start its processes, watch them, stop them."""

import json
import threading
from pathlib import Path

import structlog
from rich.console import Console
from rich.panel import Panel

from config.settings import Destination, Settings
from firstread.children import Family
from firstread.ports import free_port, wait_for_port
from firstread.prepare import needs_demo_model, prepare

log = structlog.get_logger()
console = Console()
notices = Console(stderr=True)  # standard output may be somebody's JSON

ARCHIVE_AE = "ARCHIVE"


def run_up(settings: Settings, *, demo: bool) -> None:
    """Run the whole system until SIGINT or SIGTERM; with ``demo`` also an archive and synthetic patients."""
    users = prepare(settings)
    ensure_model(settings)
    settings, archive = with_demo_archive(settings) if demo else (settings, None)
    family = system(settings, archive)
    address = f"{'https' if settings.web.tls_certificate else 'http'}://{settings.web.host}:{settings.web.port}"
    family.start()
    wait_for_port(settings.web.host, settings.web.port, timeout_s=60)
    wait_for_port(settings.dicom.host, settings.dicom.port, timeout_s=60)
    _greet(settings, address, users)
    if demo:
        threading.Thread(target=_play, args=(settings,), name="hospital", daemon=True).start()
    family.run_until_signalled()


def ensure_model(settings: Settings) -> None:
    """Build the demonstration model when it is configured and not there yet; about a minute, once."""
    if needs_demo_model(settings):
        from worker.vlm.demo_build import build_demo

        notices.print("Building the demonstration model (about a minute, once) …")
        build_demo(settings.vlm_dir)


def with_demo_archive(settings: Settings) -> tuple[Settings, Destination]:
    """Return settings that also deliver to a local archive, the demonstration's PACS."""
    archive = Destination(name="demo-archive", ae_title=ARCHIVE_AE, host="127.0.0.1", port=free_port(), drafts=True)
    return settings.model_copy(update={"destinations": (*settings.destinations, archive)}), archive


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables that give child processes exactly these settings."""
    flat: dict[str, str] = {}
    for name, value in settings.model_dump(mode="json", exclude_none=True).items():
        if isinstance(value, dict):
            for inner, item in value.items():
                flat[f"FIRSTREAD_{name}__{inner}".upper()] = item if isinstance(item, str) else json.dumps(item)
        elif name == "session_secret":
            continue  # inherited, or read from the data folder: never written into a process list
        else:
            flat[f"FIRSTREAD_{name}".upper()] = value if isinstance(value, str) else json.dumps(value)
    flat["FIRSTREAD_DATA_DIR"] = str(settings.data_dir.resolve())
    return flat


def system(settings: Settings, archive: Destination | None, *, web: bool = True, log_dir: Path | None = None) -> Family:
    """Return the processes of one installation, not started yet."""
    family = Family(environment(settings), log_dir=log_dir or settings.data_dir.resolve() / "logs")
    if archive is not None:
        folder = settings.data_dir.resolve() / "archive"
        family.add(
            "archive", "node", "archive", str(folder), "--ae-title", archive.ae_title, "--port", str(archive.port)
        )
    family.add("node", "node", "run")
    family.add("worker", "worker")
    family.add("sweeper", "sweeper")
    family.add("sealer", "sealer")
    if web:
        family.add("web", "web")
    return family


def _greet(settings: Settings, address: str, users: list[tuple[str, str, str]]) -> None:
    lines = [
        f"Dashboard   {address}",
        f"DICOM node  {settings.dicom.ae_title} at {settings.dicom.host}:{settings.dicom.port}",
    ]
    if settings.hl7.port:
        lines.append(f"HL7 orders  {settings.hl7.host}:{settings.hl7.port}")
    lines.append(f"Logs        {settings.data_dir.resolve() / 'logs'}")
    if users:
        lines += ["", "First users; these passwords are shown once and kept nowhere:"]
        lines += [f"  {login:<12} {role:<12} {password}" for login, role, password in users]
    lines += ["", "Ctrl-C stops everything."]
    console.print(Panel("\n".join(lines), title="Firstread is running", expand=False), highlight=False)


def _play(settings: Settings) -> None:
    """Send the synthetic hospital once; the parent goes on whatever happens."""
    from firstread.demo import send_hospital

    try:
        studies = send_hospital(settings, seed=7)
    except Exception as exc:
        # the edge of this thread: the system keeps running without the demonstration
        log.exception("demo.failed", error=type(exc).__name__)
        return
    console.print(f"{len(studies)} synthetic studies were sent; drafts appear on the worklist.", highlight=False)
