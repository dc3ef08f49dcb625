"""The parent restarts what dies, and leaves nothing behind when it stops."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from typer.testing import CliRunner

from firstread.children import Child, Family
from firstread.cli import app

SLEEPER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
open(sys.argv[1], "a").write("started\\n")
time.sleep(600)
"""


class Scripts(Family):
    """A family whose children are small scripts instead of our verbs."""

    def _spawn(self, child: Child) -> None:
        child.process = subprocess.Popen([sys.executable, "-c", *child.arguments], start_new_session=True)
        child.started_at = time.monotonic()


@pytest.fixture
def family():
    family = Scripts({})
    yield family
    family.stop()


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_a_killed_child_is_started_again(family, tmp_path):
    mark = tmp_path / "mark"
    family.add("sleeper", SLEEPER, str(mark))
    family.start()
    assert until(mark.exists)
    first = family.children[0].process
    first.kill()
    first.wait()
    assert until(lambda: family.watch() or mark.read_text().count("started") == 2)
    assert family.children[0].process.pid != first.pid


def test_a_child_that_keeps_dying_is_started_ever_more_slowly(family):
    family.add("broken", "raise SystemExit(3)")
    family.start()
    delays = []
    for _ in range(3):
        child = family.children[0]
        child.process.wait()
        family.watch()
        delays.append(child.restart_at - time.monotonic())
        child.restart_at = 0.0
        family.watch()
    assert delays[0] < delays[1] < delays[2]


def test_stopping_ends_every_child_and_its_children(family, tmp_path):
    mark = tmp_path / "pid"
    nested = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "open(sys.argv[1], 'w').write(str(p.pid))\n"
        "import signal; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); time.sleep(600)\n"
    )
    family.add("nested", nested, str(mark))
    family.start()
    assert until(lambda: mark.exists() and mark.read_text())
    grandchild = int(mark.read_text())
    family.stop()
    assert until(lambda: not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == "zombie")
    assert family.children[0].process is None


def test_a_signal_ends_the_parents_watch(family, tmp_path):
    family.add("sleeper", SLEEPER, str(tmp_path / "mark"))
    family.start()
    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.alarm(1)
    family.run_until_signalled(tick_s=0.05)
    assert family.children[0].process is None


def test_every_verb_explains_itself():
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    for verb in ("up", "demo", "send", "node", "worker", "web", "sweeper", "models", "users", "audit", "doctor"):
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0
