"""A real PostgreSQL server for one test session: own folder, own port, gone afterwards."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil
import psycopg

_START_S = 60
_WATCH = 'while kill -0 "$1"; do sleep 2; done; kill -QUIT "$2"; sleep 2; rm -rf "$3"'
_ROOM_BYTES = 2 * 1024**3


def find_binaries() -> Path | None:
    """Return the folder of the newest installed server's programs; None when there is none."""
    found = [p.parent for p in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if found:
        return max(found, key=lambda folder: int(folder.parent.name.split(".")[0]))
    on_path = shutil.which("postgres")
    return Path(on_path).parent if on_path else None


class PostgresServer:
    """A server that runs while the context is open.

    Nothing in it survives the context, so it need not flush; with ``durable`` it does, and stands a kill.
    """

    def __init__(self, binaries: Path, *, durable: bool = False) -> None:
        self._binaries = binaries
        self._durable = durable
        self._folder = Path(tempfile.mkdtemp(prefix="firstread-pg-", dir=None if durable else memory_folder()))
        self._port = _free_port()
        self._watcher: subprocess.Popen[bytes] | None = None
        # the server refuses to run as root
        self._as: list[str] = []
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            os.chown(self._folder, user.pw_uid, user.pw_gid)
            self._as = ["runuser", "-u", "postgres", "--"]

    def __enter__(self) -> "PostgresServer":
        data = self._folder / "data"
        self._run("initdb", "-D", str(data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-N")
        server = self.start()
        # a test run that is killed must not leave a server behind
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "sh", str(os.getpid()), str(server), str(self._folder)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        return self

    def start(self) -> int:
        """Start the server, which recovers what a kill left; return its process number."""
        data = self._folder / "data"
        options = (
            f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder} "
            "-c max_connections=100 -c shared_buffers=32MB"
        )
        if not self._durable:
            options += " -c fsync=off -c synchronous_commit=off -c full_page_writes=off"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-D", str(data), "-l", log, "-w", "-t", str(_START_S), "-o", options, "start")
        return int((data / "postmaster.pid").read_text(encoding="ascii").split()[0])

    def kill(self) -> None:
        """SIGKILL the server and every process of it, as a power cut would."""
        postmaster = psutil.Process(int((self._folder / "data" / "postmaster.pid").read_text("ascii").split()[0]))
        family = [postmaster, *postmaster.children(recursive=True)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=_START_S)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watcher is not None:
            self._watcher.kill()
            self._watcher.wait()
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", "immediate", "-w", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)

    def url(self, name: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/{name}"

    def create(self, name: str, *, template: str = "template1") -> None:
        """Create a database, as a copy of ``template``."""
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected."""
        self._execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _execute(self, statement: str) -> None:
        with psycopg.connect(f"postgresql://postgres@127.0.0.1:{self._port}/postgres", autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._binaries / program), *arguments]
        # the server keeps inherited pipes open, so its output goes to a file
        with (self._folder / "setup.log").open("a+b") as log:
            done = subprocess.run(command, cwd="/", stdout=log, stderr=log, timeout=_START_S * 2, check=False)
            if done.returncode:
                log.seek(0)
                raise RuntimeError(f"{program} failed: {log.read().decode(errors='replace')[-2000:]}")


def memory_folder() -> Path | None:
    """Return the memory file system when it has room for a server; None for the usual temporary folder."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and shutil.disk_usage(folder).free > _ROOM_BYTES else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
