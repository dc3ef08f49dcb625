"""``firstread node echo`` and ``node peers test`` try destinations of every protocol, and leave a record."""

import json
import shutil
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from config.logs import configure_logs
from db.engine import make_engine, make_sessions
from db.models import AuditEvent
from dicom_node.archive import start_archive
from firstread.cli import app
from tests.delivery_support import FREE, answering
from tests.node_support import rows

CAPABILITIES = json.dumps({"resourceType": "CapabilityStatement", "fhirVersion": "4.0.1"}).encode()


def firstread(folder: Path, destinations: list[dict[str, object]], *words: str) -> tuple[int, str]:
    env = {"FIRSTREAD_DATA_DIR": str(folder), "FIRSTREAD_DESTINATIONS": json.dumps(destinations)}
    try:
        run = CliRunner().invoke(app, list(words), env=env)
    finally:
        configure_logs(level="WARNING", json=False, process="tests")
    return run.exit_code, run.stdout


def recorded(database: Path) -> list[tuple[str, str, bool]]:
    engine = make_engine(f"sqlite:///{database}")
    try:
        found = [one for one in rows(make_sessions(engine), AuditEvent) if one.tag == "destination:tested"]
    finally:
        engine.dispose()
    return [(one.object_id, one.outcome, one.actor.startswith("cli:")) for one in sorted(found, key=lambda e: e.seq)]


def test_every_protocol_answers_and_is_recorded(tmp_path: Path, sqlite_url: str) -> None:
    shutil.copyfile(sqlite_url.removeprefix("sqlite:///"), tmp_path / "firstread.db")
    archive = start_archive(tmp_path / "archive", "ARCHIVE")
    ris = socket.create_server(("127.0.0.1", 0))
    try:
        with answering(lambda asked: (200, {}, CAPABILITIES if "metadata" in asked.path else b"[]")) as web:
            there: list[dict[str, object]] = [
                {"name": "pacs", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port, "pdf": True},
                {"name": "web", "protocol": "stow-rs", "url": web.url},
                {"name": "ris", "protocol": "mllp", "host": "127.0.0.1", "port": ris.getsockname()[1]},
                {"name": "ehr", "protocol": "fhir", "url": web.url},
            ]
            for name, called in (("pacs", "ARCHIVE"), ("web", "web"), ("ris", "ris"), ("ehr", "ehr")):
                assert firstread(tmp_path, there, "node", "echo", name) == (0, f"{called} answers\n")
            code, said = firstread(tmp_path, there, "node", "peers", "test", "pacs")
    finally:
        archive.stop()
        ris.close()
    assert code == 0
    assert "ok   Encapsulated PDF Storage: accepted" in said
    expected = [(name, "success", True) for name in ("pacs", "web", "ris", "ehr", "pacs")]
    assert recorded(tmp_path / "firstread.db") == expected


@pytest.mark.parametrize(
    "there",
    [
        {"protocol": "c-store", "ae_title": "PACS", "host": "127.0.0.1", "port": FREE},
        {"protocol": "mllp", "host": "127.0.0.1", "port": FREE},
        {"protocol": "stow-rs", "url": f"http://127.0.0.1:{FREE}/rs"},
        {"protocol": "fhir", "url": f"http://127.0.0.1:{FREE}/fhir"},
    ],
)
def test_nobody_there_is_one_line_also_without_a_database(tmp_path: Path, there: dict[str, object]) -> None:
    code, said = firstread(tmp_path, [{"name": "one", **there}], "node", "echo", "one")
    assert code != 0
    assert said.startswith("error: TCP: port 9: ")
    assert len(said.splitlines()) == 1
