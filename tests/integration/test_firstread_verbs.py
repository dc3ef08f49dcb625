"""What a person at the command line is told when the installation is not ready: one line, never a traceback."""

import os
import subprocess
import sys

import pytest

from db.engine import migrate


def firstread(data_dir, *words):
    environment = os.environ | {"FIRSTREAD_DATA_DIR": str(data_dir), "COLUMNS": "200"}
    command = [sys.executable, "-m", "firstread", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=120, env=environment, stdin=subprocess.DEVNULL
    )


VERBS = [
    ("audit", "study", "ACC1"),
    ("audit", "provenance", "ACC1"),
    ("audit", "reproduce", "ACC1"),
    ("users", "list"),
    ("users", "add", "jdoe", "radiologist", "--name", "J. Doe"),
    ("models", "activate", "VISTA3D"),
    ("trace", "ACC1"),
    ("retention", "status"),
    ("tokens", "list"),
    ("node", "peers", "list"),
    ("node", "waiting"),
]


@pytest.mark.requirement("REQ-CONF-3")
@pytest.mark.parametrize("words", VERBS, ids=" ".join)
def test_a_database_that_was_never_migrated_is_said_in_one_line(tmp_path, words):
    tmp_path.joinpath("data").mkdir()
    run = firstread(tmp_path / "data", *words)
    assert run.returncode == 2
    assert "run firstread migrate" in run.stdout
    assert "Traceback" not in run.stdout + run.stderr
    assert "SELECT" not in run.stdout + run.stderr


@pytest.mark.parametrize("verb", ["provenance", "reproduce"])
def test_a_draft_that_is_not_there_is_said_in_one_line(tmp_path, verb):
    migrate(f"sqlite:///{tmp_path / 'firstread.db'}")
    run = firstread(tmp_path, "audit", verb, "NOSUCH")
    assert (run.returncode, run.stdout.strip()) == (2, "error: there is no such draft")


def test_a_node_that_cannot_start_says_why_in_one_line(tmp_path, monkeypatch):
    migrate(f"sqlite:///{tmp_path / 'data' / 'firstread.db'}")
    tls = '{"certificate": "/absent.pem", "key": "/absent.key", "authorities": "/absent.ca"}'
    monkeypatch.setenv("FIRSTREAD_DICOM__TLS", tls)
    monkeypatch.setenv("FIRSTREAD_DICOM__PORT", "0")
    run = firstread(tmp_path / "data", "node", "run")
    assert run.returncode == 2
    assert run.stdout == "error: /absent.pem holds no certificate that can be read\n"
    assert "Traceback" not in run.stderr
