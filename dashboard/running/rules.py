"""Try the routing rules on a DICOM file that is dropped, a study that is here, or facts typed in; nothing is kept."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import yaml
from flask import Blueprint, current_app, render_template, request
from flask.typing import ResponseReturnValue
from pydantic import ValidationError
from pydicom.uid import UID

from config.errors import AppError, ConfigurationError, RefusedInputError, UnreadableDatasetError
from config.routing import CompletenessRule, RoutingVerdict, Rules, StudyFacts, load_rule_book
from dashboard.people import sessions, site, work
from dashboard.permissions import Permission, requires
from db import lifecycle, queries
from db.audit import AuditTag
from db.lifecycle import InstanceHeader
from db.queries.workers import workers_alive
from db.types import utcnow
from instances.header import read_header
from instances.part10 import split_file

bp = Blueprint("rules", __name__, url_prefix="/rules")

LARGEST_FILE = 64 * 1024**2
_LONGEST_RULES = 200_000
_FACTS = ("modality", "body_part", "sop_class", "procedure", "calling_ae", "called_ae")


@dataclass(frozen=True)
class Loaded:
    """The rules of one called AE title, as their file is now."""

    called_ae: str
    name: str
    text: str
    sha256: str
    fault: str


@dataclass(frozen=True)
class Judged:
    """What the rules make of a study, and what would gate and draft it."""

    verdict: RoutingVerdict
    completeness: CompletenessRule | None
    is_edited: bool
    gates: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What the form asks: facts as text, and rules in place of the file's."""

    facts: dict[str, str] = field(default_factory=dict)
    edited: str = ""
    source: str = ""  # where the facts come from, in words


@bp.get("")
@requires(Permission.RUNNING)
def show() -> ResponseReturnValue:
    """Show the rules in force, and a place for a file."""
    return _page(Asked({"called_ae": site().dicom.ae_title}))


@bp.post("/test")
@requires(Permission.RUNNING)
def judge() -> ResponseReturnValue:
    """Judge one file, one study or the facts of the form; the file is read in memory up to its pixels and forgotten.

    The address names nothing; what is wrong with a file is said in words that hold no value of it.
    """
    request.max_content_length = LARGEST_FILE
    cast("Any", request)._get_file_stream = lambda *_, **__: BytesIO()  # werkzeug would spool it to the disk
    current_app.extensions["csrf"].protect()  # here, for it reads the form: the limit comes first
    asked = Asked({name: request.form.get(name, "").strip()[:200] for name in _FACTS}, _edited())
    try:
        asked = _with_source(asked)
        return _page(asked, judged=_judged(asked))
    except (RefusedInputError, ConfigurationError) as exc:
        return _page(asked, refused=str(exc)), 400


bp.record_once(lambda state: state.app.extensions["csrf"].exempt(judge))  # which asks for the token itself


def _edited() -> str:
    text = request.form.get("rules", "").replace("\r\n", "\n")
    return "" if text.strip() == request.form.get("shown", "").replace("\r\n", "\n").strip() else text


def _with_source(asked: Asked) -> Asked:
    """Return what is asked with the facts of the file or the study that the form names."""
    file, key = request.files.get("file"), request.form.get("key", "").strip()[:64]
    ours = {name: asked.facts[name] for name in ("calling_ae", "called_ae") if asked.facts[name]}
    if file is not None and file.filename:
        facts = facts_of(file.stream.read())
        return replace(asked, facts={**_as_text(facts), **ours}, source="the file's header")
    if not key:
        return replace(asked, source="the form")
    with sessions()() as db:
        found = queries.find_studies(db, study_instance_uid=key) or queries.find_studies(db, accession=key)
        if not found:
            raise RefusedInputError("no study here has this accession number or Study Instance UID")
        facts = lifecycle.study_facts(db, found[-1].id)
    with work() as uow:
        uow.audit(AuditTag.STUDY_TRACED, study_id=found[-1].id, detail={"for": "rules"})
    return replace(asked, facts=_as_text(facts), source="a study that is here")


def facts_of(content: bytes) -> StudyFacts:
    """Return what rules may look at of a Part 10 file; the node's own reader of headers is used.

    Raises:
        RefusedInputError: it is no DICOM file, or not one that the node could take.
    """
    if content[128:132] != b"DICM":
        raise RefusedInputError("this is no DICOM file: it has no preamble and DICM prefix (PS3.10 section 7.1)")
    try:
        meta, offset = split_file(content)
        header: InstanceHeader = read_header(memoryview(content)[offset:], meta.transfer_syntax_uid)
    except UnreadableDatasetError as exc:
        raise RefusedInputError(f"the file cannot be read: {exc}") from exc
    except (AppError, ValueError, RecursionError, OverflowError) as exc:
        words = str(exc) if isinstance(exc, AppError) else "it is damaged"
        raise RefusedInputError(f"the node would refuse this file: {words}") from exc
    return StudyFacts(
        modalities=frozenset({header.modality} - {""}),
        body_parts=frozenset({header.body_part} - {""}),
        sop_classes=frozenset({header.sop_class_uid}),
        procedure=header.study_description,
    )


def _as_text(facts: StudyFacts) -> dict[str, str]:
    return {
        "modality": ", ".join(sorted(facts.modalities)),
        "body_part": ", ".join(sorted(facts.body_parts)),
        "sop_class": ", ".join(sorted(facts.sop_classes)),
        "procedure": facts.procedure,
        "calling_ae": facts.calling_ae,
        "called_ae": facts.called_ae or site().dicom.ae_title,
    }


def _facts(text: dict[str, str]) -> StudyFacts:
    def listed(name: str) -> frozenset[str]:
        return frozenset(one.strip() for one in text.get(name, "").split(",")) - {""}

    return StudyFacts(
        modalities=listed("modality"),
        body_parts=listed("body_part"),
        sop_classes=listed("sop_class"),
        calling_ae=text.get("calling_ae", ""),
        called_ae=text.get("called_ae", ""),
        procedure=text.get("procedure", ""),
    )


def _judged(asked: Asked) -> Judged:
    facts = _facts(asked.facts)
    profiles, cards = _known()
    own = parse_rules(asked.edited, sorted(profiles)) if asked.edited else None
    rules = own or load_rule_book(site()).of(facts.called_ae)
    verdict = rules.judge(facts)
    profile = profiles.get(verdict.profile)
    if verdict.action != "draft" or profile is None:
        unknown = verdict.action == "draft"
        gates = ("no worker is running that could say what its gate asks",) if unknown else ()
        return Judged(verdict, rules.completeness_of(facts), bool(asked.edited), gates)
    models = [one for one in cards if one["role"] == "vlm" or one["name"] == profile["expert"]]
    return Judged(
        verdict,
        rules.completeness_of(facts),
        bool(asked.edited),
        _gates(profile, facts),
        tuple(f"{one['name']} {one['version']}" for one in models),
    )


def parse_rules(text: str, profiles: Sequence[str] = ()) -> Rules:
    """Return the rules of a text; with ``profiles`` a drafting rule must name one of them.

    Raises:
        ConfigurationError: too long, no YAML, an alias, an unknown key, a bad expression, an unknown profile.
    """
    if len(text) > _LONGEST_RULES:
        raise ConfigurationError(f"rules may have {_LONGEST_RULES} characters")
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):  # a few can stand for gigabytes
            raise ConfigurationError("aliases (*name) are not taken here")
        rules = Rules.model_validate(yaml.safe_load(text))
    except ValidationError as exc:
        faults = [f"{'.'.join(map(str, one['loc'])) or 'rules'}: {one['msg']}" for one in exc.errors()[:5]]
        raise ConfigurationError("; ".join(faults)) from exc
    except (yaml.YAMLError, RecursionError) as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigurationError(f"{where}{getattr(exc, 'problem', None) or 'no YAML'}") from exc
    for rule in rules.rules:
        if rule.action == "draft" and not rule.profile:
            raise ConfigurationError(f"rule {rule.name} drafts without a profile")
        if rule.action == "draft" and profiles and rule.profile not in profiles:
            raise ConfigurationError(f"rule {rule.name} names profile {rule.profile}; known: {', '.join(profiles)}")
    return rules


def _known() -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Return the pipeline profiles and the models that workers say they have."""
    with sessions()() as db:
        said = [one for worker in workers_alive(db, utcnow()) for one in worker.models]
    profiles = {one["name"]: one for one in said if one.get("role") == "profile"}
    cards = {(one["role"], one["name"]): one for one in said if one.get("role") in {"vlm", "expert"}}
    return profiles, list(cards.values())


def _gates(profile: dict[str, Any], facts: StudyFacts) -> tuple[str, ...]:
    fits = bool(facts.modalities & set(profile["modalities"]))
    listed = ", ".join(profile["modalities"])
    words = [
        f"Modality {listed}: {'this one is' if fits else 'this one is NOT, and gets no draft'}",
        f"patients of {profile['minimum_age_years']} years and more",
    ]
    if profile["maximum_slice_mm"]:
        words.append(f"{profile['minimum_slices']} slices and more, at most {profile['maximum_slice_mm']:g} mm apart")
    return (*words, "pixels that can be decoded, and the other checks of the intake")


def _page(asked: Asked, *, judged: Judged | None = None, refused: str = "") -> str:
    loaded = _loaded()
    called = asked.facts.get("called_ae", "")
    shown = next((one for one in loaded if one.called_ae == called), loaded[0])
    sop = asked.facts.get("sop_class", "")
    return render_template(
        "rules.html",
        asked=asked,
        judged=judged,
        refused=refused,
        loaded=loaded,
        shown=shown,
        sop_class_name=UID(sop).name if sop and "," not in sop else "",
        largest_mb=LARGEST_FILE // 1024**2,
    )


def _loaded() -> list[Loaded]:
    """Return every rules file as it is on the disk now; a process reads it at its start."""
    files = [(site().dicom.ae_title, site().routing)]
    files += [(one.ae_title, one.routing) for one in site().dicom.profiles if one.routing is not None]
    return [_read(called_ae, path) for called_ae, path in files]


def _read(called_ae: str, path: Path) -> Loaded:
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        return Loaded(called_ae, path.name, "", "", f"it cannot be read: {type(exc).__name__}")
    fault = ""
    try:
        parse_rules(text)
    except ConfigurationError as exc:
        fault = str(exc)
    return Loaded(called_ae, path.name, text, hashlib.sha256(raw).hexdigest(), fault)
