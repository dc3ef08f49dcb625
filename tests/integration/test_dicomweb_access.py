"""Who may use DICOMweb, what of it is on record, and what tokens are worth."""

import hashlib
import json
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update
from typer.testing import CliRunner

from config.errors import LifecycleError, RefusedInputError
from db.engine import make_engine, make_sessions, migrate
from db.token_models import ApiToken
from db.tokens import Scope, create_token, find_bearer, list_tokens, revoke_token
from db.types import utcnow
from db.uow import unit_of_work
from firstread.cli import app as command_line
from tests.dashboard_support import Site, ct_study, make_site
from tests.dicomweb_support import BOUNDARY, PEOPLE, STOW_TYPE, body, encoded, events, instance, make_token


@pytest.fixture
def site(tmp_path: Path, sqlite_url: str) -> Site:
    return make_site(tmp_path, sqlite_url, dicom={"min_free_bytes": 0})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_without_a_token_or_a_session_nothing_is_told(site: Site) -> None:
    study_id = site.receive(ct_study(1))
    for path in ("/studies", f"/studies/{study_id}/metadata", "/instances"):
        answer = site.app.test_client().get(f"/dicomweb{path}")
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="firstread dicomweb"'
    assert site.app.test_client().post("/dicomweb/studies").status_code == 401
    assert events(site.sessions, "dicomweb:queried") == []


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer x",
        "Basic cmFkaW9sb2dpc3Q6eA==",
        "Bearer frt_" + "0" * 32 + "_" + "A" * 43,
        "Bearer \x00",
        "nonsense",
    ],
)
def test_what_is_no_token_is_refused_even_beside_a_session_and_recorded_once(site: Site, header: str) -> None:
    browser = site.client("radiologist")
    for _ in range(3):
        answer = browser.get("/dicomweb/studies", headers={"Authorization": header})
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["WWW-Authenticate"] or "invalid_token" in str(answer.headers)
    (event,) = events(site.sessions, "access:refused")
    assert (event.outcome, event.actor, event.detail["reason"]) == ("failure", "unknown", "token")


def test_a_changed_an_expired_and_a_revoked_token_are_worth_nothing(site: Site) -> None:
    client = site.app.test_client()
    token = make_token(site.sessions)
    assert client.get("/dicomweb/studies", headers=bearer(token)).status_code == 204
    changed = token[:-1] + ("A" if token[-1] != "A" else "B")
    assert client.get("/dicomweb/studies", headers=bearer(changed)).status_code == 401
    with unit_of_work(site.sessions, PEOPLE) as uow:
        revoke_token(uow, "VIEWER")
    assert client.get("/dicomweb/studies", headers=bearer(token)).status_code == 401
    other = make_token(site.sessions, "OTHER")
    with site.sessions() as db:
        db.execute(update(ApiToken).where(ApiToken.name == "OTHER").values(expires_at=utcnow() - timedelta(seconds=1)))
        db.commit()
    assert client.get("/dicomweb/studies", headers=bearer(other)).status_code == 401


def test_a_scope_is_a_limit(site: Site) -> None:
    client, ds = site.app.test_client(), ct_study(1)[0]
    reads = make_token(site.sessions, "READS", Scope.READ)
    writes = make_token(site.sessions, "WRITES", Scope.WRITE)
    sent = {"Content-Type": STOW_TYPE.format(BOUNDARY)}
    content = body([encoded(ds)])
    assert client.post("/dicomweb/studies", data=content, headers={**bearer(reads), **sent}).status_code == 403
    assert instance(site.sessions, ds.SOPInstanceUID) is None
    assert client.get("/dicomweb/studies", headers=bearer(writes)).status_code == 403
    assert [e.detail["reason"] for e in events(site.sessions, "access:refused")] == ["scope", "scope"]
    assert client.post("/dicomweb/studies", data=content, headers={**bearer(writes), **sent}).status_code == 200
    row = instance(site.sessions, ds.SOPInstanceUID)
    assert row is not None
    assert row.calling_ae == "WRITES"
    assert client.get("/dicomweb/studies", headers=bearer(reads)).status_code == 200


def test_a_token_opens_nothing_but_dicomweb(site: Site) -> None:
    token = make_token(site.sessions)
    for path in ("/worklist", "/audit", "/users"):
        answer = site.app.test_client().get(path, headers=bearer(token))
        assert answer.status_code == 303
        assert answer.headers["Location"].startswith("/login")


def test_a_session_reads_and_stores_only_with_the_mark_that_forms_carry(site: Site) -> None:
    ds = ct_study(1)[0]
    browser = site.client("radiologist")
    sent = {"Content-Type": STOW_TYPE.format(BOUNDARY)}
    content = body([encoded(ds)])
    assert browser.post("/dicomweb/studies", data=content, headers=sent).status_code == 400
    assert instance(site.sessions, ds.SOPInstanceUID) is None
    mark = {"X-CSRFToken": browser.token("/account/password")}
    assert browser.post("/dicomweb/studies", data=content, headers={**sent, **mark}).status_code == 200
    row = instance(site.sessions, ds.SOPInstanceUID)
    assert row is not None
    assert row.calling_ae == "radiologist"
    assert browser.get("/dicomweb/studies").get_json(force=True)[0]["00100020"]["Value"] == ["P-1001"]
    (stored,) = events(site.sessions, "dicomweb:stored")
    assert (stored.actor, stored.actor_kind, stored.study_id) == ("radiologist", "person", row.study_id)
    auditor = site.client("auditor")
    assert auditor.get("/dicomweb/studies").status_code == 200
    mark = {"X-CSRFToken": auditor.token("/account/password")}
    assert auditor.post("/dicomweb/studies", data=content, headers={**sent, **mark}).status_code == 403
    assert site.client("admin").get("/dicomweb/studies").status_code == 403


def test_it_can_be_switched_off(tmp_path: Path, sqlite_url: str) -> None:
    site = make_site(tmp_path, sqlite_url, web={"dicomweb": False})
    token = make_token(site.sessions)
    assert site.app.test_client().get("/dicomweb/studies", headers=bearer(token)).status_code == 404
    assert site.app.test_client().post("/dicomweb/studies", headers=bearer(token)).status_code in {400, 404}


@pytest.mark.requirement("REQ-ACCESS-5")
def test_only_a_hash_is_kept_and_the_record_has_no_secret(sessions) -> None:
    token = make_token(sessions, "PACS", Scope.READ, days=30)
    secret = token.rsplit("_", 1)[1] if token.count("_") == 2 else token.split("_", 2)[2]
    with sessions() as db:
        (row,) = list_tokens(db)
        assert row.secret_sha256 == hashlib.sha256(secret.encode()).hexdigest()
        found = find_bearer(db, token)
    assert found is not None
    assert (found.name, found.scopes) == ("PACS", frozenset({Scope.READ}))
    (event,) = events(sessions, "token:created")
    assert (event.detail["name"], event.detail["scopes"]) == ("PACS", "read")
    assert secret not in json.dumps(event.detail)
    with unit_of_work(sessions, PEOPLE) as uow:
        revoke_token(uow, "PACS")
    with unit_of_work(sessions, PEOPLE) as uow:
        revoke_token(uow, "PACS")
    assert len(events(sessions, "token:revoked")) == 1
    with sessions() as db:
        assert find_bearer(db, token) is None


@pytest.mark.parametrize(
    ("name", "scopes", "days"),
    [("", [Scope.READ], 1), ("a b", [Scope.READ], 1), ("x" * 17, [Scope.READ], 1), ("X", [], 1), ("X", [Scope.READ], 0),
     ("X", [Scope.READ], 100_000), ("ÄÖ", [Scope.READ], 1)],
)  # fmt: skip
def test_a_token_that_cannot_be_is_refused(sqlite_sessions, name, scopes, days) -> None:
    with pytest.raises(RefusedInputError), unit_of_work(sqlite_sessions, PEOPLE) as uow:
        create_token(uow, name=name, scopes=scopes, days=days)


def test_a_name_is_never_given_twice(sqlite_sessions) -> None:
    make_token(sqlite_sessions, "PACS")
    with unit_of_work(sqlite_sessions, PEOPLE) as uow:
        revoke_token(uow, "PACS")
    with pytest.raises(LifecycleError):
        make_token(sqlite_sessions, "PACS")
    with pytest.raises(RefusedInputError), unit_of_work(sqlite_sessions, PEOPLE) as uow:
        revoke_token(uow, "NOBODY")


def test_its_last_use_is_known_to_the_minute(site: Site) -> None:
    token = make_token(site.sessions)
    for _ in range(3):
        site.app.test_client().get("/dicomweb/studies", headers=bearer(token))
    with site.sessions() as db:
        row = db.scalars(select(ApiToken)).one()
    assert row.last_used_at is not None
    assert utcnow() - row.last_used_at < timedelta(minutes=1)


def test_tokens_are_made_listed_and_revoked_at_the_command_line(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'firstread.db'}"
    migrate(url)
    run = CliRunner()
    at = ["--data-dir", str(tmp_path)]
    made = run.invoke(command_line, ["tokens", "add", "OHIF", "--scope", "read", "--days", "7", *at])
    assert made.exit_code == 0, made.output
    token = made.stdout.strip().splitlines()[-1]
    with make_sessions(make_engine(url))() as db:
        assert find_bearer(db, token) is not None
    listed = run.invoke(command_line, ["tokens", "list", *at])
    assert "OHIF" in listed.output
    assert token not in listed.output
    assert run.invoke(command_line, ["tokens", "add", "OHIF", "--scope", "read", *at]).exit_code == 2
    assert run.invoke(command_line, ["tokens", "revoke", "OHIF", *at]).exit_code == 0
    assert run.invoke(command_line, ["tokens", "revoke", "OTHER", *at]).exit_code == 2
    with make_sessions(make_engine(url))() as db:
        assert find_bearer(db, token) is None
