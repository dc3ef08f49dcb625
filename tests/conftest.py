"""Fixtures shared by every area: databases on both engines, and the folder of real data."""

import atexit
import gc
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from audit.keys import write_seal_key
from db.engine import make_engine, make_sessions, migrate
from db.origin import keys_are_in, write_key
from tests.compiled import share_compiled
from tests.judges import judged, judging_archive, watch_builders  # noqa: F401 fixtures of every test
from tests.migrated import migrated
from tests.postgres import PostgresServer, find_binaries, memory_folder

ROOT = Path(__file__).resolve().parent.parent
_KEYS = Path(tempfile.mkdtemp(prefix="firstread-keys-"))  # this process's, and that of every verb it starts
os.environ["FIRSTREAD_AUDIT__KEY_DIR"] = str(_KEYS)
write_key(_KEYS)
write_seal_key(_KEYS)
keys_are_in(_KEYS)
atexit.register(shutil.rmtree, _KEYS, ignore_errors=True)
os.environ["COLUMNS"] = "200"  # tables of the command line are read whole, whoever runs the tests
_TEMPLATE = "firstread_template"
share_compiled()
watch_builders()  # before a test, or what it tests, imports a builder by name
gc.disable()  # while everything is imported


def pytest_collection_finish() -> None:
    """What was imported stays: to look through it again and again for garbage takes a sixth of all time."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real studies; FIRSTREAD_TEST_DATA names it."""
    folder = Path(os.environ.get("FIRSTREAD_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder (set FIRSTREAD_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL server of this test session's own, with a migrated template database."""
    binaries = find_binaries()
    if binaries is None:
        reason = "PostgreSQL server binaries are not installed (apt-get install postgresql)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with PostgresServer(binaries) as server:
        server.create(_TEMPLATE)
        migrate(server.url(_TEMPLATE))
        yield server


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a PostgreSQL database without tables."""
    name = f"t_{uuid4().hex}"
    postgres_server.create(name)
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a migrated PostgreSQL database."""
    name = f"t_{uuid4().hex}"
    postgres_server.create(name, template=_TEMPLATE)
    yield postgres_server.url(name)
    postgres_server.drop(name)


@pytest.fixture(scope="session")
def _migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "firstread.db"
    migrated(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(_migrated_file: Path) -> Iterator[str]:
    """The URL of a migrated SQLite database in a folder of its own, in memory where there is room."""
    with tempfile.TemporaryDirectory(prefix="firstread-db-", dir=memory_folder()) as folder:
        path = Path(folder) / "firstread.db"
        shutil.copyfile(_migrated_file, path)
        yield f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest) -> str:
    """The URL of a migrated database; the test runs once on each engine."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on each database."""
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sessions(engine: Engine) -> sessionmaker[Session]:
    """The session factory on each database."""
    return make_sessions(engine)


@pytest.fixture
def sqlite_sessions(sqlite_url: str) -> Iterator[sessionmaker[Session]]:
    """The session factory on SQLite only, for tests that are not about the database."""
    engine = make_engine(sqlite_url)
    yield make_sessions(engine)
    engine.dispose()
