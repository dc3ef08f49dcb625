"""A real OpenID Connect provider for the tests: npm's oidc-provider in a process of its own."""

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
import requests

FOLDER = Path(__file__).resolve().parent / "oidc_provider"
REDIRECT = "http://localhost/oidc/callback"
_HOPS = 12


@dataclass(frozen=True)
class OidcProvider:
    """A running provider; ``people`` are by login, with what it claims of each."""

    issuer: str
    file: Path

    def people(self, people: Mapping[str, Mapping[str, Any]]) -> None:
        """Let the provider know these people from now on."""
        self.file.write_text(json.dumps(people), encoding="utf-8")

    def settings(self, **changes: Any) -> dict[str, Any]:
        """``identity.oidc`` of a site that uses it."""
        return {
            "issuer": self.issuer,
            "client_id": "firstread",
            "client_secret": "client-secret-of-the-tests",
            "roles": {"heads": "lead", "readers": "radiologist", "it": "admin"},
            **changes,
        }

    def log_in(self, address: str, login: str, browser: requests.Session | None = None) -> str:
        """Follow the provider's pages from ``address``, fill in its forms, and return where it sends us back."""
        browser = browser or requests.Session()
        answer = browser.get(address, allow_redirects=False, timeout=30)
        for _ in range(_HOPS):
            if answer.is_redirect:
                there = urljoin(answer.url, answer.headers["Location"])
                if there.startswith(REDIRECT):
                    return there.removeprefix("http://localhost")
                answer = browser.get(there, allow_redirects=False, timeout=30)
                continue
            action = re.search(r'<form[^>]*action="([^"]+)"', answer.text)
            assert action is not None, f"{answer.status_code} {urlsplit(answer.url).path} {answer.text[:300]}"
            fields = dict(re.findall(r'<input[^>]*type="hidden"[^>]*name="([^"]+)"[^>]*value="([^"]*)"', answer.text))
            fields |= {"login": login, "password": "x"} if fields.get("prompt") == "login" else {}
            there = urljoin(answer.url, action[1])
            answer = browser.post(there, data=fields, allow_redirects=False, timeout=30)
        raise AssertionError("the provider sends us round in circles")


@contextmanager
def running_provider(folder: Path) -> Iterator[OidcProvider]:
    """Start the provider on a free port; install it first when it is not there."""
    node = shutil.which("node")
    _need(node and shutil.which("npm"), "Node is not installed")
    if not (FOLDER / "node_modules" / "oidc-provider").is_dir():
        command = ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"]
        installed = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=240, check=False)
        _need(installed.returncode == 0, f"oidc-provider cannot be installed: {installed.stderr[-200:]}")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    file = folder / "people.json"
    file.write_text("{}", encoding="utf-8")
    command = [str(node), "server.js", str(port), str(file), REDIRECT]
    with subprocess.Popen(command, cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        said = ""
        while said != "ready":
            line = process.stdout.readline()
            assert line, "the provider ended before it was ready"
            said = line.strip()
        yield OidcProvider(f"http://127.0.0.1:{port}", file)
        process.terminate()


def _need(found: object, reason: str) -> None:
    if found:
        return
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
