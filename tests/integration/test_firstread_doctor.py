"""What the doctor says of the node's certificate and its peers."""

import pytest

from db.engine import make_engine, make_sessions
from firstread.doctor import examine
from tests.node_support import node_settings
from tests.peers_support import add
from tests.tls_support import Authority


def told(settings, name):
    return next((ok, note) for what, ok, note in examine(settings) if what == name)


@pytest.mark.requirement("REQ-CONF-5")
@pytest.mark.parametrize(
    ("days", "ok", "note"),
    [(100, True, "CN=node,O=Hospital until "), (5, False, "ends in 4 days: renew it"), (-1, False, "has expired")],
)
def test_the_certificate_is_looked_at_before_it_ends(tmp_path, days, ok, note):
    authority = Authority(tmp_path / "ca")
    settings = node_settings(tmp_path, dicom={"tls": authority.settings(authority.issue("node", days=days))})
    verdict, said = told(settings, "node certificate")
    assert verdict is ok
    assert note in said


def test_peers_bound_to_a_name_only_are_named(tmp_path, sqlite_url):
    settings = node_settings(tmp_path, database_url=sqlite_url)
    assert told(settings, "peers") == (True, "none: anybody on this machine may call, nobody else")
    sessions = make_sessions(make_engine(sqlite_url))
    add(sessions, ae_title="CT1", host="10.0.0.5")
    add(sessions, ae_title="PACS")
    assert told(settings, "peers") == (True, "2 may call; bound to nothing but a name: PACS")


def test_a_pacs_that_has_to_call_back_must_be_a_peer(tmp_path, sqlite_url):
    pacs = {"name": "pacs", "ae_title": "PACS", "host": "10.0.0.9", "port": 104, "commitment": True}
    settings = node_settings(tmp_path, database_url=sqlite_url, destinations=[pacs])
    ok, said = told(settings, "peers")
    assert not ok
    assert said.endswith("and is no peer: firstread node peers add PACS --host 10.0.0.9")
    add(make_sessions(make_engine(sqlite_url)), ae_title="PACS", host="10.0.0.9")
    assert told(settings, "peers") == (True, "1 may call")
    here = node_settings(tmp_path / "b", database_url=sqlite_url, destinations=[pacs | {"commitment": False}])
    assert told(here, "peers")[0]


@pytest.mark.requirement("REQ-CONF-5")
def test_a_database_that_was_not_migrated_is_said(tmp_path):
    assert told(node_settings(tmp_path), "peers") == (
        False,
        "the database cannot say who may call: run firstread migrate",
    )


@pytest.mark.parametrize(
    ("destination", "ok", "note"),
    [
        ({"protocol": "mllp", "host": "ris.example"}, True, "one (mllp)"),
        ({"protocol": "stow-rs", "url": "http://127.0.0.1:8042/rs", "token": "t"}, True, "one (stow-rs)"),
        ({"protocol": "stow-rs", "url": "https://pacs.example/rs", "token": "\n"}, False, "is empty"),
    ],
)
def test_destinations_keep_secrets(tmp_path, destination, ok, note):
    token = destination.pop("token", None)
    if token is not None:
        (tmp_path / "token").write_text(token, encoding="ascii")
        destination = {**destination, "token_file": tmp_path / "token"}
    verdict, said = told(node_settings(tmp_path, destinations=[{"name": "one", **destination}]), "destinations")
    assert verdict is ok
    assert note in said
