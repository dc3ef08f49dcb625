"""A real rsyslog that takes syslog over TLS on a port of its own and writes what came into a file."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tls_support import Authority, Issued

PROGRAM = shutil.which("rsyslogd") or "/usr/sbin/rsyslogd"
_CONFIG = """
global(workDirectory="{folder}" maxMessageSize="64k" defaultNetstreamDriver="gtls"
       defaultNetstreamDriverCAFile="{authority}" defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}" parser.escapeControlCharactersOnReceive="off")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/name"
       permittedPeer=["{peer}"])
input(type="imtcp" address="127.0.0.1" port="{port}" supportOctetCountedFraming="on")
template(name="raw" type="string" string="%rawmsg%\\n")
action(type="omfile" file="{folder}/messages" template="raw" asyncWriting="off")
"""


def needs_rsyslog() -> None:
    """Skip where it is not installed; fail in CI."""
    if not Path(PROGRAM).exists():
        reason = "rsyslog is not installed (tests/install-tools.sh)"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


class Rsyslog:
    """One receiver; ``start`` and ``kill`` as often as wanted, always on the same port."""

    def __init__(self, folder: Path, authority: Authority, shown: Issued, peer: str = "firstread") -> None:
        folder.mkdir(parents=True)
        self.file = folder / "messages"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._folder = folder
        self._config = folder / "rsyslog.conf"
        self._config.write_text(
            _CONFIG.format(
                folder=folder, authority=authority.file, certificate=shown.certificate, key=shown.key, peer=peer,
                port=self.port,
            )
        )  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Rsyslog":
        """Start it and wait until it listens."""
        (self._folder / "pid").unlink(missing_ok=True)
        command = [PROGRAM, "-n", "-f", str(self._config), "-i", str(self._folder / "pid")]
        with (self._folder / "said").open("ab") as said:
            self._process = subprocess.Popen(command, stdout=said, stderr=said)
        wait_for(self._listens, "rsyslog does not listen")
        return self

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def freeze(self) -> None:
        """Stop it where it is: its machine still takes and acknowledges octets, and nobody reads them."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it at once: what it held in memory is lost."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def messages(self) -> list[str]:
        """What came, whole lines only, as they were sent."""
        if not self.file.exists():
            return []
        return [line for line in self.file.read_text(encoding="utf-8").split("\n")[:-1] if line]


def texts(messages: list[str], message_id: str) -> list[str]:
    """The text of each message of a kind, when its header is one of RFC 5424 with our PRI."""
    header = re.compile(
        r"<85>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z [\x21-\x7e]{1,255} firstread - (\S{1,32}) - \ufeff(.*)",
        re.DOTALL,
    )
    found = [header.fullmatch(one) for one in messages]
    assert all(found), messages
    return [one[2] for one in found if one and one[1] == message_id]


def wait_for(ready: Callable[[], bool], words: str, seconds: float = 60.0) -> None:
    """Return as soon as something is so."""
    until = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < until, words
        time.sleep(0.02)
