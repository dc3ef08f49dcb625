"""Templates and macros: who may keep which, and that nothing of them is ever lost."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select

from config.errors import LifecycleError, NotAuthorisedError, RefusedInputError
from db.audit import AuditTag
from db.lifecycle.moves import locked
from db.lifecycle.review import SECTION_KEYS, drafter
from db.report_models import UserAccount
from db.types import Role, utcnow
from db.uow import UnitOfWork
from db.wording_models import Macro, ReportTemplate

KEEPERS = frozenset({Role.LEAD})  # of what the whole site uses
MAX_NAME, MAX_WORD, MAX_MACRO, MAX_TEMPLATE_SECTION = 80, 32, 4_000, 10_000
MAX_MACROS, MAX_TEMPLATES = 300, 500  # of one reader, or of the site
TEMPLATE_SECTIONS = tuple(key for key in SECTION_KEYS if key != "addendum")
_WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True)
class NewTemplate:
    """Section texts and what they are for; an empty criterion asks for nothing."""

    name: str
    sections: Mapping[str, str]
    modality: str = ""
    body_part: str = ""
    procedure: str = ""


def add_template(uow: UnitOfWork, new: NewTemplate, *, replaces: UUID | None = None) -> UUID:
    """Keep a template of the site; ``replaces`` is retired in the same act.

    Raises:
        NotAuthorisedError: the Actor keeps no wording of the site.
        RefusedInputError: no name, no text, an unknown section, or too much of anything.
        LifecycleError: the name is in use, or ``replaces`` was replaced by somebody else.
    """
    keeper = _keeper(uow)
    sections = {key: text.strip() for key, text in new.sections.items() if text.strip()}
    _check_template(new.name.strip(), sections)
    if replaces is not None:
        _retire(uow, locked(uow, ReportTemplate, replaces), keeper)
    count = select(func.count()).select_from(ReportTemplate).where(ReportTemplate.retired_at.is_(None))
    _require(int(uow.session.scalar(count) or 0) < MAX_TEMPLATES, f"a site keeps {MAX_TEMPLATES} templates at most")
    row = ReportTemplate(
        name=new.name.strip(),
        modality=new.modality.strip().upper()[:16],
        body_part=new.body_part.strip().upper()[:64],
        procedure=" ".join(new.procedure.split())[:200],
        sections=sections,
        added_by=keeper.id,
    )
    uow.session.add(row)
    uow.session.flush()
    detail = {"name": row.name, "sections": sorted(sections), "replaces": str(replaces or "")}
    uow.audit(AuditTag.WORDING_ADDED, object_type="template", object_id=str(row.id), detail=detail)
    return row.id


def retire_template(uow: UnitOfWork, template_id: UUID) -> None:
    """Take a template of the site out of use; it is kept.

    Raises:
        NotAuthorisedError: the Actor keeps no wording of the site.
        LifecycleError: there is none, or it is out of use already.
    """
    _retire(uow, locked(uow, ReportTemplate, template_id), _keeper(uow))


def add_macro(uow: UnitOfWork, word: str, text: str, *, site: bool = False, replaces: UUID | None = None) -> UUID:
    """Keep a macro of the Actor's own, or of the site; ``replaces`` is retired in the same act.

    Raises:
        NotAuthorisedError: the Actor does not draft, or keeps no wording of the site.
        RefusedInputError: a word that cannot be typed as one, no text, or too much.
        LifecycleError: the word is in use.
    """
    keeper = _keeper(uow) if site else drafter(uow)
    word, text = word.strip().lstrip(".").lower(), text.replace("\r\n", "\n").replace("\x00", "").strip()
    _require(_WORD.fullmatch(word) is not None, "a macro's word has letters a to z, digits, - and _, 32 at most")
    _require(0 < len(text) <= MAX_MACRO, f"a macro's text has 1 to {MAX_MACRO} characters")
    if replaces is not None:
        _retire(uow, _macro(uow, replaces), keeper)
    owner = None if site else keeper.id
    count = select(func.count()).select_from(Macro).where(Macro.owner_id == owner, Macro.retired_at.is_(None))
    _require(int(uow.session.scalar(count) or 0) < MAX_MACROS, f"{MAX_MACROS} macros are kept at most")
    row = Macro(owner_id=owner, word=word, text=text, added_by=keeper.id)
    uow.session.add(row)
    uow.session.flush()
    detail = {"word": word, "site": site, "replaces": str(replaces or "")}
    uow.audit(AuditTag.WORDING_ADDED, object_type="macro", object_id=str(row.id), detail=detail)
    return row.id


def retire_macro(uow: UnitOfWork, macro_id: UUID) -> None:
    """Take a macro out of use; it is kept.

    Raises:
        NotAuthorisedError: it is somebody else's, or the site's and the Actor keeps none of these.
        LifecycleError: there is none, or it is out of use already.
    """
    row = _macro(uow, macro_id)
    _retire(uow, row, drafter(uow))


def _macro(uow: UnitOfWork, macro_id: UUID) -> Macro:
    """Return a macro the Actor may change."""
    row = locked(uow, Macro, macro_id)
    if row.owner_id is None:
        _keeper(uow)
    elif row.owner_id != drafter(uow).id:
        raise NotAuthorisedError("a macro is changed by its owner only")
    return row


def _retire(uow: UnitOfWork, row: ReportTemplate | Macro, keeper: UserAccount) -> None:
    if row.retired_at is not None:
        raise LifecycleError("it is out of use already")
    row.retired_by, row.retired_at = keeper.id, utcnow()
    uow.session.flush()
    kind = "template" if isinstance(row, ReportTemplate) else "macro"
    uow.audit(AuditTag.WORDING_RETIRED, object_type=kind, object_id=str(row.id))


def _check_template(name: str, sections: Mapping[str, str]) -> None:
    _require(0 < len(name) <= MAX_NAME, f"a template's name has 1 to {MAX_NAME} characters")
    _require(bool(sections), "a template has text for one section at least")
    _require(set(sections) <= set(TEMPLATE_SECTIONS), f"a template's sections are {', '.join(TEMPLATE_SECTIONS)}")
    longest = max(len(text) for text in sections.values())
    _require(longest <= MAX_TEMPLATE_SECTION, f"a template's section holds {MAX_TEMPLATE_SECTION} characters at most")


def _require(holds: bool, words: str) -> None:
    if not holds:
        raise RefusedInputError(words)


def _keeper(uow: UnitOfWork) -> UserAccount:
    account = drafter(uow)
    if account.role not in KEEPERS:
        raise NotAuthorisedError("only a lead radiologist keeps the site's wording")
    return account
