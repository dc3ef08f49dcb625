"""Switching models by two people: one proposes, a worker compares the files, another one approves or declines."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy import select

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db import packages
from db.audit import AuditTag
from db.lifecycle.moves import locked
from db.package_models import Package
from db.running_models import ModelSwitch
from db.types import PackageState, utcnow
from db.types import SwitchState as S
from db.uow import UnitOfWork

SWITCH_MOVES: Mapping[tuple[S, S], AuditTag] = {
    (S.PROPOSED, S.APPROVED): AuditTag.MODEL_SWITCH_APPROVED,
    (S.PROPOSED, S.DECLINED): AuditTag.MODEL_SWITCH_DECLINED,
    (S.PROPOSED, S.WITHDRAWN): AuditTag.MODEL_SWITCH_WITHDRAWN,
    (S.PROPOSED, S.EXPIRED): AuditTag.MODEL_SWITCH_EXPIRED,
}
ACTS = ("activate", "retire")
VALID_DAYS = 7
_MOST_REASON = 1000


def propose(uow: UnitOfWork, package_id: UUID, *, act: str, reason: str, fall_back: bool = False) -> UUID:
    """Propose that a package drafts (``activate``) or never again (``retire``); return the proposal's id.

    Raises:
        RefusedInputError: another act, no reason, or a licence nobody accepted.
        LifecycleError: the package is in that state already, or a proposal for it is open.
    """
    words = _words(reason)
    if act not in ACTS:
        raise RefusedInputError("a package is activated or retired")
    package = locked(uow, Package, package_id)
    wrong = package.state is PackageState.RETIRED or (act == "activate" and package.state is PackageState.ACTIVE)
    if wrong:
        raise LifecycleError(f"{package.name} {package.version} is {package.state.value} already")
    if packages.acceptance(uow.session, package.name, package.licence_sha256) is None:
        raise RefusedInputError(f"{package.name}: the licence {package.licence} was not accepted")
    is_open = (ModelSwitch.package_id == package_id, ModelSwitch.state == S.PROPOSED)
    if uow.session.scalar(select(ModelSwitch.id).where(*is_open)) is not None:
        raise LifecycleError(f"a proposal for {package.name} {package.version} waits for a decision already")
    now = utcnow()
    row = ModelSwitch(
        id=uuid4(),
        package_id=package_id,
        act=act,
        reason=words,
        fall_back=fall_back,
        proposed_by=uow.actor.name[:64],
        proposer_id=uow.actor.user_id,
        proposed_at=now,
        expires_at=now + timedelta(days=VALID_DAYS),
        faults=[],
    )
    uow.session.add(row)
    uow.session.flush()
    _audit(uow, AuditTag.MODEL_SWITCH_PROPOSED, row, package, reason=words, expires_at=row.expires_at.isoformat())
    return row.id


def approve(uow: UnitOfWork, switch_id: UUID, *, answer: str) -> str | None:
    """Do what was proposed, in this transaction; return the name of a package whose place it took.

    Raises:
        NotAuthorisedError: the Actor is who proposed it.
        LifecycleError: it is decided or expired, its files were not compared yet, or differ.
    """
    row = _open(uow, switch_id)
    _require_second(uow, row)
    if row.act == "activate" and row.verified_at is None:
        raise LifecycleError("no worker has compared the files with the manifest yet: wait, or start a worker")
    if row.faults:
        raise LifecycleError(f"its files are not what was recorded: {row.faults[0]}")
    package = uow.session.get_one(Package, row.package_id)
    _decide(uow, row, package, S.APPROVED, answer)
    if row.act == "activate":
        return packages.activate(uow, package.id)
    packages.retire(uow, package.id, reason=row.reason, fall_back=row.fall_back)
    return None


def decline(uow: UnitOfWork, switch_id: UUID, *, answer: str) -> None:
    """Refuse what was proposed.

    Raises:
        NotAuthorisedError: the Actor is who proposed it.
        LifecycleError: it is decided or expired.
        RefusedInputError: no reason.
    """
    row = _open(uow, switch_id)
    _require_second(uow, row)
    _decide(uow, row, uow.session.get_one(Package, row.package_id), S.DECLINED, _words(answer))


def withdraw(uow: UnitOfWork, switch_id: UUID) -> None:
    """Take one's own proposal back.

    Raises:
        NotAuthorisedError: somebody else proposed it.
        LifecycleError: it is decided or expired.
    """
    row = _open(uow, switch_id)
    if uow.actor.user_id != row.proposer_id:
        raise NotAuthorisedError("only who proposed it takes it back")
    _decide(uow, row, uow.session.get_one(Package, row.package_id), S.WITHDRAWN, "")


def expire_switches(uow: UnitOfWork, now: datetime) -> int:
    """End proposals nobody decided in time; return how many."""
    rows = uow.session.scalars(
        select(ModelSwitch)
        .where(ModelSwitch.state == S.PROPOSED, ModelSwitch.expires_at <= now)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        _decide(uow, row, uow.session.get_one(Package, row.package_id), S.EXPIRED, "")
    return len(rows)


def to_verify(uow: UnitOfWork) -> list[tuple[UUID, Package]]:
    """Return the open proposals to activate whose files nobody has compared with the manifest."""
    query = (
        select(ModelSwitch.id, Package)
        .join(Package, Package.id == ModelSwitch.package_id)
        .where(ModelSwitch.state == S.PROPOSED, ModelSwitch.act == "activate", ModelSwitch.verified_at.is_(None))
        .order_by(ModelSwitch.proposed_at)
    )
    return [(key, package) for key, package in uow.session.execute(query)]


def verified(uow: UnitOfWork, switch_id: UUID, faults: Sequence[str]) -> None:
    """Keep what the comparison of a package's files found, and record it; one that was decided meanwhile stays."""
    row = locked(uow, ModelSwitch, switch_id)
    if row.state is not S.PROPOSED or row.verified_at is not None:
        return
    row.verified_at, row.faults = utcnow(), list(faults)[:50]
    packages.record_verification(uow, uow.session.get_one(Package, row.package_id), faults)


def _open(uow: UnitOfWork, switch_id: UUID) -> ModelSwitch:
    row = locked(uow, ModelSwitch, switch_id)
    if row.state is not S.PROPOSED:
        raise LifecycleError(f"this proposal is {row.state.value} already")
    if row.expires_at <= utcnow():
        raise LifecycleError(f"this proposal has expired: nobody decided within {VALID_DAYS} days")
    return row


def _require_second(uow: UnitOfWork, row: ModelSwitch) -> None:
    """Refuse the proposer's own approval, also under a login that was renamed."""
    if uow.actor.user_id is None or uow.actor.user_id == row.proposer_id or uow.actor.name == row.proposed_by:
        raise NotAuthorisedError("who proposed it does not decide it: it takes a second person")


def _decide(uow: UnitOfWork, row: ModelSwitch, package: Package, to: S, answer: str) -> None:
    tag = SWITCH_MOVES[row.state, to]
    row.state, row.decided_at, row.decided_by = to, utcnow(), uow.actor.name[:64]
    row.answer = " ".join(answer.split())[:_MOST_REASON]
    uow.session.flush()
    _audit(uow, tag, row, package, proposed_by=row.proposed_by, answer=row.answer)


def _audit(uow: UnitOfWork, tag: AuditTag, row: ModelSwitch, package: Package, **more: str) -> None:
    detail = {"act": row.act, "name": package.name, "version": package.version, "switch": str(row.id), **more}
    uow.audit(tag, object_type="model", object_id=str(package.id), detail=detail)


def _words(reason: str) -> str:
    words = " ".join(reason.split())
    if not 1 <= len(words) <= _MOST_REASON:
        raise RefusedInputError(f"say why, in 1 to {_MOST_REASON} characters")
    return words
