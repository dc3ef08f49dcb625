"""The model store's record: which packages this site has, who accepted their licences, which of them draft.

The files are ``worker.store``'s; here is what a person decided about them, each with its audit event.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from config.errors import LifecycleError, RefusedInputError
from db.audit import AuditTag
from db.lifecycle.moves import locked, move_package
from db.package_models import LicenceAcceptance, Package
from db.types import PackageKind, PackageState, utcnow
from db.uow import UnitOfWork

VLM_PLACE = "vlm"


@dataclass(frozen=True)
class NewPackage:
    """A package whose files are in the store; ``folder`` is relative to it."""

    kind: PackageKind
    name: str
    version: str
    revision: str
    folder: str
    manifest_sha256: str
    licence: str
    licence_sha256: str
    research_only: bool
    demonstration: bool


@dataclass(frozen=True)
class ActivePackage:
    """A package that drafts; ``folder`` is relative to the store."""

    kind: PackageKind
    name: str
    version: str
    revision: str
    folder: str
    manifest_sha256: str
    licence: str
    research_only: bool
    demonstration: bool


def expert_place(name: str) -> str:
    """Return the place of the Expert a Trigger calls by this name."""
    return f"expert:{name}"


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a licence text in hex."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def accept_licence(uow: UnitOfWork, *, package: str, licence: str, text: str) -> None:
    """Record that the Actor accepted this text for packages of this name."""
    digest = text_sha256(text)
    uow.session.add(
        LicenceAcceptance(
            package=package, licence=licence, text_sha256=digest, text=text, accepted_by=uow.actor.name[:64]
        )
    )
    _audit_licence(uow, AuditTag.LICENCE_ACCEPTED, "success", package, licence, digest)


def refuse_licence(uow: UnitOfWork, *, package: str, licence: str, text: str) -> None:
    """Record that the Actor was shown this text and did not accept it."""
    _audit_licence(uow, AuditTag.LICENCE_REFUSED, "failure", package, licence, text_sha256(text))


def acceptance(session: Session, package: str, digest: str) -> LicenceAcceptance | None:
    """Return the first acceptance of the text with this SHA-256 for packages of this name; None for none."""
    query = select(LicenceAcceptance).where(
        LicenceAcceptance.package == package, LicenceAcceptance.text_sha256 == digest
    )
    return session.scalar(query.order_by(LicenceAcceptance.accepted_at).limit(1))


def add_package(uow: UnitOfWork, new: NewPackage, tag: AuditTag, *, source: str) -> UUID:
    """Add a package whose files are in the store already; ``tag`` says how they came, ``source`` from where.

    Raises:
        LifecycleError: the store has it already, or had it and it was retired.
        RefusedInputError: nobody accepted its licence.
    """
    if acceptance(uow.session, new.name, new.licence_sha256) is None:
        raise RefusedInputError(f"{new.name}: the licence {new.licence} was not accepted")
    state = uow.session.scalar(select(Package.state).where(Package.folder == new.folder))
    if state is PackageState.RETIRED:
        raise LifecycleError(f"{new.folder} was retired: it never drafts again")
    if state is not None:
        raise LifecycleError(f"{new.folder} is in the store already")
    key = uuid4()
    place = VLM_PLACE if new.kind is PackageKind.VLM else expert_place(new.name)
    uow.session.add(Package(id=key, place=place, imported_by=uow.actor.name[:64], **vars(new)))
    uow.audit(
        tag,
        object_type="model",
        object_id=str(key),
        detail={
            "name": new.name,
            "version": new.version,
            "revision": new.revision,
            "manifest_sha256": new.manifest_sha256,
            "licence": new.licence,
            "licence_sha256": new.licence_sha256,
            "research_only": new.research_only,
            "source": source,
        },
    )
    uow.session.flush()
    return key


def activate(uow: UnitOfWork, package_id: UUID) -> str | None:
    """Let a package draft; return the name of the one it takes the place of.

    The caller has compared the files with the manifest.

    Raises:
        LifecycleError: it is ACTIVE or RETIRED, or somebody else activated another at this moment.
        RefusedInputError: nobody accepted its licence.
    """
    package = locked(uow, Package, package_id)
    if acceptance(uow.session, package.name, package.licence_sha256) is None:
        raise RefusedInputError(f"{package.name}: the licence {package.licence} was not accepted")
    before = uow.session.scalar(
        select(Package)
        .where(Package.place == package.place, Package.state == PackageState.ACTIVE, Package.id != package_id)
        .with_for_update(key_share=True)
    )
    replaced = None
    if package.state is PackageState.IMPORTED and before is not None:
        replaced = before.name
        move_package(uow, before, PackageState.IMPORTED, detail={"replaced_by": str(package_id)})
    move_package(uow, package, PackageState.ACTIVE, detail={"manifest_sha256": package.manifest_sha256})
    package.activated_by = uow.actor.name[:64]
    package.activated_at = utcnow()
    return replaced


def retire(uow: UnitOfWork, package_id: UUID, *, reason: str, fall_back: bool = False) -> None:
    """Take a package out for good: it never drafts again, wherever its folder is named.

    Args:
        uow: of the person who decides.
        package_id: the package.
        reason: kept in the audit log.
        fall_back: what the site's configuration names may draft in place of an ACTIVE package.

    Raises:
        LifecycleError: it is RETIRED already, or ACTIVE and ``fall_back`` was not said.
    """
    package = locked(uow, Package, package_id)
    if package.state is PackageState.ACTIVE and not fall_back:
        raise LifecycleError(
            f"{package.name} is active: activate another in its place first, or ask for the configured one to draft"
        )
    move_package(uow, package, PackageState.RETIRED, detail={"reason": reason, "fall_back": fall_back})
    package.retired_by = uow.actor.name[:64]
    package.retired_at = utcnow()


def record_verification(uow: UnitOfWork, package: Package, faults: Sequence[str]) -> None:
    """Record that every file was compared with the manifest, and what differed."""
    uow.audit(
        AuditTag.MODEL_VERIFIED,
        outcome="failure" if faults else "success",
        object_type="model",
        object_id=str(package.id),
        detail={"name": package.name, "version": package.version, "faults": list(faults)[:50]},
    )


def list_packages(session: Session) -> list[Package]:
    """Return every package of the store, retired ones too, by name and age."""
    return list(session.scalars(select(Package).order_by(Package.name, Package.imported_at)))


def find_package(session: Session, named: str) -> Package:
    """Return the package called ``NAME`` or ``NAME@REVISION``; case does not count, a revision may be cut short.

    Raises:
        RefusedInputError: there is none, or there are several.
    """
    name, _, revision = named.partition("@")
    found = [
        package
        for package in list_packages(session)
        if package.name.lower() == name.lower() and package.revision.startswith(revision.lower())
    ]
    if not revision and len(found) > 1:
        found = [package for package in found if package.state is not PackageState.RETIRED] or found
    if len(found) == 1:
        return found[0]
    if not found:
        raise RefusedInputError(f"no package {named} in the store")
    choices = ", ".join(f"{package.name}@{package.revision[:12]}" for package in found)
    raise RefusedInputError(f"{named} is not one package; there are: {choices}")


def active_packages(session: Session) -> list[ActivePackage]:
    """Return the packages that draft, one statement; asked at every Reading, so that a decision takes effect."""
    names = tuple(ActivePackage.__dataclass_fields__)
    query = select(*(getattr(Package, name) for name in names)).where(Package.state == PackageState.ACTIVE)
    return [ActivePackage(*row) for row in session.execute(query.order_by(Package.place))]


def retired_manifests(session: Session) -> frozenset[str]:
    """Return the SHA-256 of every retired package's manifest: such a package never drafts, wherever it lies."""
    query = select(Package.manifest_sha256).where(Package.state == PackageState.RETIRED)
    return frozenset(session.scalars(query))


def _audit_licence(uow: UnitOfWork, tag: AuditTag, outcome: str, package: str, licence: str, digest: str) -> None:
    detail = {"package": package, "licence": licence, "text_sha256": digest}
    uow.audit(tag, outcome=outcome, object_type="licence", object_id=digest, detail=detail)
