"""A server on this machine that answers as the Hugging Face Hub does for models: listing, files, ranges, errors."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_LARGE = {".safetensors", ".model", ".pt"}


def git_blob(content: bytes) -> str:
    """The name git gives to a blob."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


@dataclass
class Repository:
    """One model repository: commits by their id, branches by their name, and how it misbehaves.

    ``corrupt`` files are served with their first byte changed; of ``cut`` files only so many bytes are served
    before the connection breaks and the server answers 503, until `mend`.
    """

    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    corrupt: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    gated: bool = False
    down: bool = False
    served: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, list[str]] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)

    def commit(self, revision: str) -> str | None:
        """The commit a revision stands for."""
        return revision if revision in self.commits else self.branches.get(revision)

    def mend(self) -> None:
        """Serve everything again."""
        self.cut.clear()
        self.corrupt.clear()
        self.down = False


def repository(folder: Path, *, commit: str = "a" * 40) -> Repository:
    """The files of a folder as the newest commit of a repository."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return Repository({commit: files}, {"main": commit})


@contextmanager
def serve(repositories: dict[str, Repository]) -> Iterator[str]:
    """Serve while the context is open; gives the address."""

    class Handler(_Handler):
        known = repositories

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    known: dict[str, Repository]

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        if self.path.startswith("/api/models/"):
            self._listing()
        else:
            self._file(body=True)

    def _listing(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[3:]]
        repository = self.known.get("/".join(parts[:2]))
        if repository is None:
            return self._answer(401, error="RepoNotFound")
        if repository.gated:
            return self._answer(403, error="GatedRepo")
        revision = parts[3] if len(parts) > 3 else "main"
        commit = repository.commit(revision)
        if commit is None:
            return self._answer(404, error="RevisionNotFound")
        siblings = [_sibling(name, content) for name, content in sorted(repository.commits[commit].items())]
        return self._answer(200, json.dumps({"id": "/".join(parts[:2]), "sha": commit, "siblings": siblings}).encode())

    def _file(self, *, body: bool) -> None:
        owner, name, _, revision, *rest = [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
        repository = self.known[f"{owner}/{name}"]
        commit = repository.commit(revision)
        path = "/".join(rest)
        if repository.down:
            return self._answer(503)
        if commit is None or path not in repository.commits[commit]:
            return self._answer(404, error="EntryNotFound")
        repository.tokens.add(self.headers.get("Authorization", ""))
        content = repository.commits[commit][path]
        if path in repository.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        return self._content(repository, path, commit, content, body=body)

    def _content(self, repository: Repository, path: str, commit: str, content: bytes, *, body: bool) -> None:
        begin = 0
        asked = self.headers.get("Range")
        if asked:
            repository.ranges.setdefault(path, []).append(asked)
            begin = int(asked.removeprefix("bytes=").split("-")[0])
        part = content[begin:]
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        allowed = repository.cut.get(path)
        if allowed is not None:
            part = part[: max(allowed - begin, 0)]
            repository.down = True
            self.close_connection = True
        self.wfile.write(part)
        repository.served[path] = repository.served.get(path, 0) + len(part)

    def _answer(self, status: int, content: bytes = b"", *, error: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if error:
            self.send_header("X-Error-Code", error)
            self.send_header("X-Error-Message", error)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _sibling(name: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": git_blob(content)}
    if Path(name).suffix in _LARGE:
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        # the blob git knows is the pointer, not the file
        entry["blobId"] = git_blob(b"version https://git-lfs.github.com/spec/v1\n" + name.encode())
    return entry
