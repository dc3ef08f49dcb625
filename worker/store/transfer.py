"""Files from elsewhere: listed with their digests, fetched with resumption, compared before they count."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from config.errors import (
    AppError,
    ConfigurationError,
    ModelPackageError,
    OutOfSpaceError,
    PeerUnavailableError,
    RefusedInputError,
)
from worker.store.published import HubSource, UrlFile

log = structlog.get_logger()

PART = ".part"
_CHUNK = 1 << 20
_BY_HAND = "on a machine without internet: firstread models import FOLDER_OR_TAR"


@dataclass(frozen=True)
class Remote:
    """One file elsewhere and what its bytes must be.

    Attributes:
        path: relative to the package.
        url: where it is.
        digest: hex.
        algorithm: ``sha256``, ``md5``, or ``git-sha1`` for git's digest of a blob.
        size: bytes, where it is known.
        on_hub: whether the hub serves it, which alone is told who asks.
    """

    path: str
    url: str
    digest: str
    algorithm: str
    size: int | None = None
    on_hub: bool = False


@dataclass(frozen=True)
class Listing:
    """The files of one commit of a repository."""

    commit: str
    files: tuple[Remote, ...]


def hub_listing(source: HubSource, *, revision: str = "", endpoint: str | None = None) -> Listing:
    """Ask the hub for the files of a repository at its pinned commit, or at ``revision``.

    Raises:
        PeerUnavailableError: the hub cannot be reached, or the machine is told to stay offline.
        RefusedInputError: no such repository or revision, or the hub's newest commit is not the pinned one.
        ModelPackageError: the hub gives no digest of a file, or a path that leaves the package.
    """
    from huggingface_hub import HfApi, hf_hub_url

    wanted = revision or (source.revision if len(source.revision) == 40 else "")
    api = HfApi(endpoint=endpoint)
    with _hub_errors(source.repo):
        info = api.model_info(source.repo, revision=wanted or None, files_metadata=True)
    commit = str(info.sha)
    if not revision and not commit.startswith(source.revision):
        raise RefusedInputError(
            f"{source.repo} is at {commit}, not at the pinned {source.revision}; "
            "look at what changed, then take it with --revision"
        )
    if len(wanted) == 40 and commit != wanted:
        raise RefusedInputError(f"{source.repo}: asked for commit {wanted}, the hub answered with {commit}")
    files = tuple(
        _remote(sibling, hf_hub_url(source.repo, sibling.rfilename, revision=commit, endpoint=api.endpoint))
        for sibling in info.siblings or ()
    )
    return Listing(commit, files)


def _remote(sibling: Any, url: str) -> Remote:
    path = str(sibling.rfilename)
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ModelPackageError(f"{path}: leaves the package")
    if sibling.lfs is not None:
        return Remote(path, url, sibling.lfs.sha256, "sha256", sibling.lfs.size, on_hub=True)
    if not sibling.blob_id:
        raise ModelPackageError(f"{path}: the hub gives no digest")
    return Remote(path, url, sibling.blob_id, "git-sha1", sibling.size, on_hub=True)


def url_listing(files: Iterable[UrlFile]) -> Listing:
    """Return plain addresses as a listing without a commit."""
    return Listing(
        "",
        tuple(
            Remote(file.name, file.url, file.sha256 or file.md5, "sha256" if file.sha256 else "md5") for file in files
        ),
    )


def fetch(files: Iterable[Remote], folder: Path) -> None:
    """Bring ``files`` into ``folder``, going on where an earlier attempt stopped.

    A file is there under its name only when its digest fits; what is not whole ends in ``.part``.

    Raises:
        PeerUnavailableError: the connection failed; run again to go on.
        ModelPackageError: a file's digest differs; it is removed, and the message names it.
        OutOfSpaceError: the disk is, or would be, full.
    """
    waiting = [file for file in files if not _is_whole(file, folder / file.path)]
    _need_space(folder, sum((file.size or 0) - _held(file, folder) for file in waiting))
    for file in waiting:
        _fetch_one(file, folder)


def _fetch_one(file: Remote, folder: Path) -> None:
    target, part = folder / file.path, _part(file, folder)
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _is_whole(file, part):
            _continue(file, part)
        if not _is_whole(file, part):
            part.unlink()
            raise ModelPackageError(f"{file.path}: its {file.algorithm} differs from the published one; removed")
        part.replace(target)
    log.info("model.file_fetched", bytes=target.stat().st_size)


def _continue(file: Remote, part: Path) -> None:
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    # the hub's own download keeps no part of a file that failed; its function below does, where it is asked to
    headers = build_hf_headers(token=None if file.on_hub else False)
    with part.open("ab") as stream:
        held = stream.tell()
        if file.size is not None and held > file.size:
            return
        with _hub_errors(file.path):
            http_get(file.url, stream, resume_size=held, headers=headers, expected_size=file.size)
        stream.flush()
        os.fsync(stream.fileno())


def _is_whole(file: Remote, target: Path) -> bool:
    if not target.is_file() or (file.size is not None and target.stat().st_size != file.size):
        return False
    return digest(target, file.algorithm) == file.digest


def _part(file: Remote, folder: Path) -> Path:
    # named by the digest: bytes of another revision are never continued
    return folder / f"{file.path}.{file.digest[:16]}{PART}"


def _held(file: Remote, folder: Path) -> int:
    part = _part(file, folder)
    return part.stat().st_size if part.is_file() else 0


def _need_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutOfSpaceError(f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")


def digest(path: Path, algorithm: str) -> str:
    """Return the digest of a file in hex; ``git-sha1`` is that of git's blob."""
    state: Any
    if algorithm == "git-sha1":
        state = hashlib.sha1(usedforsecurity=False)
        state.update(f"blob {path.stat().st_size}\0".encode())
    else:
        state = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as stream:
        while block := stream.read(_CHUNK):
            state.update(block)
    value: str = state.hexdigest()
    return value


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Name what the disk refuses.

    Raises:
        OutOfSpaceError: it is full.
        ConfigurationError: this account may not write there, or there can be no such folder.
    """
    try:
        yield
    except AppError:
        raise
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise OutOfSpaceError(f"no room for {path.name}") from exc
        raise ConfigurationError(f"{path} cannot be written: {os.strerror(exc.errno or errno.EIO)}") from exc


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    import httpx2
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as exc:
        raise RefusedInputError(f"{what}: its owner wants you to ask for access first; then set HF_TOKEN") from exc
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError) as exc:
        raise RefusedInputError(f"{what}: the hub knows no such repository or revision") from exc
    except OfflineModeIsEnabled as exc:
        raise PeerUnavailableError(
            f"{what}: this machine is told to stay offline (HF_HUB_OFFLINE); {_BY_HAND}"
        ) from exc
    except HfHubHTTPError as exc:
        raise PeerUnavailableError(
            f"{what}: the server answered {exc.response.status_code}; run again to go on"
        ) from exc
    except httpx2.HTTPError as exc:
        raise PeerUnavailableError(
            f"{what}: the server cannot be reached ({type(exc).__name__}); run again to go on; {_BY_HAND}"
        ) from exc
    except OSError as exc:
        if exc.errno is not None:
            raise
        # the hub's word for a body shorter or longer than announced
        raise PeerUnavailableError(f"{what}: not as long as announced; run again to go on") from exc
