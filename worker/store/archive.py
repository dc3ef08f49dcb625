"""Packages that come by hand: a folder or a tar, copied in without trusting a name, a link or a size in it."""

import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from config.errors import ModelPackageError, OutOfSpaceError, RefusedInputError
from worker.store.transfer import disk_errors

MAX_BYTES = 200 * 10**9
MAX_FILES = 2000


def bring_in(source: Path, target: Path, *, max_bytes: int = MAX_BYTES) -> None:
    """Copy a folder or unpack a tar (plain or gzip, xz, bzip2) into ``target``, whose content it replaces.

    A tar with one folder at its top gives that folder's content. Hidden files are left out.

    Raises:
        RefusedInputError: neither a folder nor a tar; a link, a device, a name that leaves the package; more bytes
            or files than a package has.
        OutOfSpaceError: they do not fit.
        ModelPackageError: the tar ends early or is broken.
    """
    with disk_errors(target):
        shutil.rmtree(target)
        target.mkdir(mode=0o700)
        if source.is_dir():
            _copy_folder(source, target, max_bytes)
        elif source.is_file():
            _unpack(source, target, max_bytes)
        else:
            raise RefusedInputError(f"{source} is no folder and no tar")


def _copy_folder(source: Path, target: Path, max_bytes: int) -> None:
    total = 0
    for count, path in enumerate(_files(source)):
        name = path.relative_to(source)
        if path.is_symlink() or not path.is_file():
            raise RefusedInputError(f"{name} is a link or no plain file")
        total += path.stat().st_size
        _bounded(count, total, max_bytes)
        _room(path.stat().st_size, target)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / name)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _files(path)
        else:
            yield path


def _unpack(source: Path, target: Path, max_bytes: int) -> None:
    try:
        with tarfile.open(source, "r|*") as archive:
            total = 0
            for count, member in enumerate(archive):
                if member.isdir():
                    continue
                name = _plain_name(member)
                if any(part.startswith(".") for part in PurePosixPath(name).parts):
                    continue
                total += member.size
                _bounded(count, total, max_bytes)
                _room(member.size, target)
                member.name = name
                # the checks above refuse; the filter is a second pair of eyes on names and modes
                archive.extract(member, target, filter="data")
    except tarfile.FilterError as exc:
        raise RefusedInputError(f"{source.name}: {exc}") from exc
    except (tarfile.TarError, EOFError, zlib.error) as exc:
        raise ModelPackageError(f"{source.name} is no whole tar: {exc}") from exc
    _lift(target)


def _plain_name(member: tarfile.TarInfo) -> str:
    path = PurePosixPath(member.name)
    if not member.isfile():
        raise RefusedInputError(f"{member.name} is a link or no plain file")
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise RefusedInputError(f"{member.name} leaves the package")
    return path.as_posix()


def _bounded(count: int, total: int, max_bytes: int) -> None:
    if count >= MAX_FILES:
        raise RefusedInputError(f"more than {MAX_FILES} files: no model package")
    if total > max_bytes:
        raise RefusedInputError(f"more than {max_bytes / 1e9:g} GB: no model package")


def _room(size: int, target: Path) -> None:
    if shutil.disk_usage(target).free < size:
        raise OutOfSpaceError("no room for the package")


def _lift(target: Path) -> None:
    """Take the content of the one folder at the top of a tar, which is how most tars are made."""
    top = list(target.iterdir())
    if len(top) != 1 or not top[0].is_dir():
        return
    inner = top[0].rename(target / ".top")
    for path in inner.iterdir():
        path.rename(target / path.name)
    inner.rmdir()
