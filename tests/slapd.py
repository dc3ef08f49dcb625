"""A real directory for the tests: OpenLDAP's slapd on free ports, with TLS, in a folder of its own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ldap3 import Connection, Server

from tests.tls_support import Authority

BASE = "dc=hospital,dc=test"
ROOT_DN, ROOT_PASSWORD = f"cn=root,{BASE}", "root-password"
SEARCHER_DN, SEARCHER_PASSWORD = f"cn=firstread,{BASE}", "searcher-password"
_MODULES = Path("/usr/lib/ldap")
_SCHEMA = Path("/etc/ldap/schema")


@dataclass(frozen=True)
class Slapd:
    """A running directory."""

    plain: int  # port that speaks StartTLS
    secure: int  # port of ldaps
    ca_file: Path

    def settings(self, **changes: Any) -> dict[str, Any]:
        """``identity.ldap`` of a site that uses it, by StartTLS."""
        return {
            "url": f"ldap://localhost:{self.plain}",
            "ca_file": self.ca_file,
            "bind_dn": SEARCHER_DN,
            "bind_password": SEARCHER_PASSWORD,
            "base": f"ou=people,{BASE}",
            "roles": {group("heads"): "lead", group("readers"): "radiologist"},
            **changes,
        }

    def admin(self) -> Connection:
        """A connection that may change everything."""
        return Connection(
            Server("127.0.0.1", port=self.plain), ROOT_DN, ROOT_PASSWORD, auto_bind=True, raise_exceptions=True
        )

    def add(self, uid: str, name: str, password: str, *, dn: str = "") -> None:
        """Add a person."""
        attributes = {"cn": name, "sn": name.rsplit(maxsplit=1)[-1], "userPassword": password}
        with self.admin() as directory:
            directory.add(dn or person(uid), "inetOrgPerson", attributes | {"uid": uid})

    def join(self, name: str, *uids: str) -> None:
        """Make a group of these people; the directory itself writes their memberOf."""
        with self.admin() as directory:
            directory.add(group(name), "groupOfNames", {"member": [person(uid) for uid in uids]})

    def leave(self, name: str) -> None:
        """Remove a group."""
        with self.admin() as directory:
            directory.delete(group(name))


def person(uid: str) -> str:
    """DN of a person."""
    return f"uid={uid},ou=people,{BASE}"


def group(name: str) -> str:
    """DN of a group."""
    return f"cn={name},ou=groups,{BASE}"


@contextmanager
def running_slapd(folder: Path) -> Iterator[Slapd]:
    """Start a directory with an empty tree of people and groups."""
    program = shutil.which("slapd") or "/usr/sbin/slapd"
    if not Path(program).exists():
        reason = "slapd is not installed (tests/install-tools.sh)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    authority = Authority(folder / "ca")
    issued = authority.issue("directory")
    (folder / "db").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        plain, secure = one.getsockname()[1], other.getsockname()[1]
    config = folder / "slapd.conf"
    config.write_text(
        "\n".join([
            *(f"include {_SCHEMA / name}.schema" for name in ("core", "cosine", "inetorgperson")),
            f"modulepath {_MODULES}",
            "moduleload back_mdb",
            "moduleload memberof",
            f"TLSCertificateFile {issued.certificate}",
            f"TLSCertificateKeyFile {issued.key}",
            "database mdb",
            f'suffix "{BASE}"',
            f'rootdn "{ROOT_DN}"',
            f"rootpw {ROOT_PASSWORD}",
            f"directory {folder / 'db'}",
            "overlay memberof",
            "access to attrs=userPassword by anonymous auth by * none",
            f'access to * by dn.exact="{SEARCHER_DN}" read by * none',
        ]) + "\n",
        encoding="utf-8",
    )  # fmt: skip
    where = f"ldap://127.0.0.1:{plain}/ ldaps://127.0.0.1:{secure}/"
    command = [program, "-f", str(config), "-h", where, "-d", "0"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        running = Slapd(plain, secure, authority.file)
        _wait(process, plain)
        with running.admin() as directory:
            directory.add(BASE, ["dcObject", "organization"], {"o": "Hospital", "dc": "hospital"})
            directory.add(f"ou=people,{BASE}", "organizationalUnit")
            directory.add(f"ou=groups,{BASE}", "organizationalUnit")
            secret = {"userPassword": SEARCHER_PASSWORD, "sn": "firstread"}
            directory.add(SEARCHER_DN, "person", secret)
        yield running
        process.terminate()


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    for _ in range(600):
        assert process.poll() is None, "slapd ended"
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("slapd does not listen")
