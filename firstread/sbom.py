"""The bill of materials of a release: CycloneDX 1.6 of every pinned package, browser package and shipped model.

The software of unknown provenance that IEC 62304 8.1.2 wants named by version. The same checkout and the same
installed packages give the same bytes: serial number from the hashes of the lock files and manifests, time from the
changelog's release. The libraries below Python (libc, CUDA driver, PostgreSQL) are a site's and not listed.
"""

import base64
import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import yaml
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from config.errors import ConfigurationError

LOCK = "requirements.lock"
BROWSER_LOCK = "dashboard/viewer/package-lock.json"
MODELS = "worker/models"
_CLASSIFIER = "License :: OSI Approved :: "


def bill_of_materials(root: Path) -> str:
    """Return the CycloneDX 1.6 JSON of the checkout at ``root``.

    Raises:
        ConfigurationError: a lock line is no pin, or a manifest has no files.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    inputs = [LOCK, BROWSER_LOCK, *(path.relative_to(root).as_posix() for path in _manifests(root))]
    digests = {name: sha256(root / name) for name in inputs}
    application = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        bom_ref=f"{project['name']}@{project['version']}",
        description=project["description"],
        licenses=_licences(project["license"]),
    )
    parts = [*_locks(digests), *python_packages(root), *browser_packages(root), *models(root)]
    bom = Bom(
        components=parts,
        serial_number=uuid5(NAMESPACE_URL, json.dumps([project["version"], digests], sort_keys=True)),
        metadata=BomMetaData(
            component=application,
            properties=[Property(name="firstread:lock:sha256", value=digests[LOCK])],
        ),
    )
    bom.register_dependency(application, parts)
    return _dated(json.loads(JsonV1Dot6(bom).output_as_string()), released_at(root))


def _dated(document: dict[str, Any], released: datetime | None) -> str:
    """Return the document with the release's instant in the place of the library's "now"; none before a release."""
    del document["metadata"]["timestamp"]
    if released is not None:
        document["metadata"]["timestamp"] = released.isoformat()
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def released_at(root: Path) -> datetime | None:
    """Return the day of the newest release of CHANGELOG.md, midnight UTC; None while there is none."""
    text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r"^## \[\d[^\]]*\] [-–] (\d{4}-\d\d-\d\d)", text, re.MULTILINE)
    return datetime.fromisoformat(found[1]).replace(tzinfo=UTC) if found else None


def _locks(digests: dict[str, str]) -> Iterator[Component]:
    for name in (LOCK, BROWSER_LOCK):
        yield Component(name=name, type=ComponentType.FILE, bom_ref=name, hashes=[_sha256(digests[name])])


# --- Python ------------------------------------------------------------------------------------------------


def pins(root: Path) -> list[Requirement]:
    """Return what the lock pins, in its order.

    Raises:
        ConfigurationError: a line is no ``name==version``, with or without a marker.
    """
    found = []
    for number, line in enumerate((root / LOCK).read_text(encoding="utf-8").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        try:
            pin = Requirement(text)
        except InvalidRequirement as exc:
            raise ConfigurationError(f"{LOCK} line {number} is no requirement") from exc
        if [one.operator for one in pin.specifier] != ["=="]:
            raise ConfigurationError(f"{LOCK} line {number} pins no version: {pin.name}")
        found.append(pin)
    return found


def python_packages(root: Path) -> Iterator[Component]:
    """Give a component for every pin, with the licence that the installed package states.

    What only development and tests need has the scope ``excluded``.
    """
    needed = _needed_at_run_time(root)
    for pin in pins(root):
        version = next(iter(pin.specifier)).version
        is_needed = pin.marker is not None or canonicalize_name(pin.name) in needed
        purl = PackageURL("pypi", name=canonicalize_name(pin.name), version=version)
        yield Component(
            name=pin.name,
            version=version,
            type=ComponentType.LIBRARY,
            scope=ComponentScope.REQUIRED if is_needed else ComponentScope.EXCLUDED,
            bom_ref=purl.to_string(),
            purl=purl,
            licenses=_licences(_stated_licence(pin.name)),
            properties=[Property(name="firstread:only-when", value=str(pin.marker))] if pin.marker else [],
        )


def _needed_at_run_time(root: Path) -> set[str]:
    """Return the project's dependencies and optional ones for running, and whatever those need in their turn."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = [line for extra, lines in project["optional-dependencies"].items() if extra != "dev" for line in lines]
    waiting = [Requirement(line) for line in (*project["dependencies"], *optional)]
    seen: set[tuple[str, str]] = set()
    while waiting:
        one = waiting.pop()
        for extra in {"", *one.extras} - {extra for name, extra in seen if name == canonicalize_name(one.name)}:
            seen.add((canonicalize_name(one.name), extra))
            waiting += [
                need for need in _needs(one.name) if need.marker is None or need.marker.evaluate({"extra": extra})
            ]
    return {name for name, _ in seen}


def _needs(name: str) -> list[Requirement]:
    try:
        return [Requirement(line) for line in requires(name) or ()]
    except PackageNotFoundError:
        return []


def _stated_licence(name: str) -> str:
    """Return the licence of the installed package as one line; empty when it is not installed or states none."""
    try:
        stated = metadata(name)
    except PackageNotFoundError:
        return ""
    lines = [line for key in ("License-Expression", "License") for line in stated.get_all(key) or ()]
    short = [line for line in lines if line and "\n" not in line and len(line) <= 80 and line != "UNKNOWN"]
    classifiers = [str(line) for line in stated.get_all("Classifier") or ()]
    osi = sorted(line.removeprefix(_CLASSIFIER) for line in classifiers if line.startswith(_CLASSIFIER))
    return short[0] if short else " / ".join(osi)


def _licences(text: str) -> Iterable[License]:
    return [LicenseFactory().make_from_string(text)] if text else []  # an SPDX id, an expression, else a name


# --- the browser -------------------------------------------------------------------------------------------


def browser_packages(root: Path) -> Iterator[Component]:
    """Give a component for every npm package of the viewer's lock; build tools have the scope ``excluded``."""
    listed: dict[str, Any] = json.loads((root / BROWSER_LOCK).read_text(encoding="utf-8"))["packages"]
    seen: set[str] = set()
    for path, package in listed.items():
        if not path:  # the viewer itself
            continue
        purl = _npm_purl(path.rpartition("node_modules/")[2], package["version"])
        if purl.to_string() not in seen:
            seen.add(purl.to_string())
            yield _browser_package(purl, package)


def _npm_purl(name: str, version: str) -> PackageURL:
    namespace, _, short = name.rpartition("/")
    return PackageURL("npm", namespace=namespace or None, name=short, version=version)


def _browser_package(purl: PackageURL, package: dict[str, Any]) -> Component:
    algorithm, _, digest = package.get("integrity", "").partition("-")
    hashes = [HashType(alg=HashAlgorithm.SHA_512, content=base64.b64decode(digest).hex())]
    return Component(
        name=purl.name,
        group=purl.namespace,
        version=purl.version,
        type=ComponentType.LIBRARY,
        scope=ComponentScope.EXCLUDED if package.get("dev") else ComponentScope.REQUIRED,
        bom_ref=purl.to_string(),
        purl=purl,
        hashes=hashes if algorithm == "sha512" else [],
        licenses=_licences(package.get("license", "")),
    )


# --- models ------------------------------------------------------------------------------------------------


def models(root: Path) -> Iterator[Component]:
    """Give a component for every model package that is shipped, its files with their SHA-256 inside it.

    Raises:
        ConfigurationError: a manifest lists no files.
    """
    for path in _manifests(root):
        manifest = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
        folder, files = path.parent.name, _files(manifest.get("files"))
        if not files:
            raise ConfigurationError(f"{folder}/{path.name} lists no files")
        yield Component(
            name=manifest["name"],
            version=manifest["version"],
            type=ComponentType.MACHINE_LEARNING_MODEL,
            bom_ref=f"model:{folder}",
            description=_intended_use(manifest),
            licenses=_licences(manifest["licence"]),
            properties=[Property(name="firstread:demonstration", value=str(bool(manifest["demonstration"])).lower())],
            components=[_file(f"{MODELS}/{folder}/{name}", digest) for name, digest in files.items()],
        )


def _manifests(root: Path) -> list[Path]:
    return sorted((root / MODELS).glob("*/manifest.*"))


def _files(listed: Any) -> dict[str, str]:
    """Return path and SHA-256 of each file; expert manifests list entries, the language model's is a mapping."""
    return dict(listed) if isinstance(listed, dict) else {entry["path"]: entry["sha256"] for entry in listed or ()}


def _intended_use(manifest: dict[str, Any]) -> str:
    stated = manifest["intended_use"]
    return str(stated["statement"] if isinstance(stated, dict) else stated)


def _file(name: str, digest: str) -> Component:
    return Component(name=name, type=ComponentType.FILE, bom_ref=name, hashes=[_sha256(digest)])


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)
