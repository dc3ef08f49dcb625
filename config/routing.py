"""Routing rules: which Study is whole, which is drafted by which pipeline profile, with the trace that explains it."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator

from config.errors import ConfigurationError
from config.settings import Settings

Action = Literal["draft", "ignore", "hold"]
Purpose = Literal["clinical", "research"]


@dataclass(frozen=True)
class StudyFacts:
    """What a rule may look at; every value comes from the DICOM headers or the association."""

    modalities: frozenset[str] = frozenset()
    body_parts: frozenset[str] = frozenset()
    sop_classes: frozenset[str] = frozenset()
    calling_ae: str = ""
    called_ae: str = ""
    procedure: str = ""  # Requested Procedure / Study Description


@dataclass(frozen=True)
class SeriesFacts:
    """What a required series is compared with."""

    modality: str
    description: str
    instances: int


@dataclass(frozen=True)
class RoutingVerdict:
    """What to do with a Study, and why.

    ``use`` is what the draft is for: models under a research licence never draft for clinical use. ``trace`` lists
    the rules in the order tried: ``{"rule", "matched", "why"}``.
    """

    action: Action
    profile: str = ""
    priority: str = "ROUTINE"
    rule: str = ""
    reason: str = ""
    trace: list[dict[str, Any]] = field(default_factory=list)
    use: Purpose = "clinical"


class When(BaseModel, frozen=True, extra="forbid"):
    """Conditions of one rule; all given ones must hold, an absent one always does."""

    modality: tuple[str, ...] = Field(default=(), description="Any of these Modality (0008,0060) values.")
    body_part: str | None = Field(default=None, description="Regular expression over Body Part Examined.")
    sop_class: tuple[str, ...] = Field(default=(), description="Any of these SOP Class UIDs.")
    calling_ae: str | None = Field(default=None, description="Regular expression, whole AE title.")
    called_ae: str | None = Field(default=None, description="Regular expression, whole AE title.")
    procedure: str | None = Field(default=None, description="Regular expression, anywhere in the description.")

    @field_validator("body_part", "calling_ae", "called_ae", "procedure")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        return _compiled(value)

    def first_miss(self, facts: StudyFacts) -> str:
        """Return why this does not match, or an empty string."""
        if self.modality and not facts.modalities & set(self.modality):
            return f"modality {_listed(facts.modalities)} is not one of {_listed(self.modality)}"
        if self.sop_class and not facts.sop_classes & set(self.sop_class):
            return "no instance of the SOP classes asked for"
        if self.body_part and not any(re.search(self.body_part, b, re.IGNORECASE) for b in facts.body_parts or {""}):
            return f"body part {_listed(facts.body_parts)} does not match {self.body_part!r}"
        if self.calling_ae and not re.fullmatch(self.calling_ae, facts.calling_ae):
            return f"calling AE {facts.calling_ae!r} does not match {self.calling_ae!r}"
        if self.called_ae and not re.fullmatch(self.called_ae, facts.called_ae):
            return f"called AE {facts.called_ae!r} does not match {self.called_ae!r}"
        if self.procedure and not re.search(self.procedure, facts.procedure, re.IGNORECASE):
            return f"the procedure does not match {self.procedure!r}"
        return ""


class Rule(BaseModel, frozen=True, extra="forbid"):
    """One rule; the first that matches decides."""

    name: str = Field(pattern=r"^[a-z0-9-]{1,64}$", description="Shown in traces and in the audit log.")
    when: When = When()
    action: Action = Field(default="draft", description="draft, ignore (kept and shown) or hold (a person decides).")
    profile: str = Field(default="", description="Pipeline profile of a drafted Study.")
    priority: Literal["STAT", "URGENT", "ROUTINE"] = Field(default="ROUTINE", description="Reading priority.")
    use: Purpose = Field(
        default="clinical",
        description="What the drafts are for; weights under a research licence draft only where this is research.",
    )
    reason: str = Field(default="", description="Shown to people for ignore and hold.")
    comment: str = Field(default="", description="For the people who maintain the rules.")


class RequiredSeries(BaseModel, frozen=True, extra="forbid"):
    """One series a Study must have; all given conditions must hold for the same series."""

    modality: str = Field(default="", description="Its Modality (0008,0060); any when empty.")
    description: str | None = Field(default=None, description="Regular expression, anywhere in Series Description.")
    at_least: int = Field(default=1, ge=1, description="Instances it must have.")

    @field_validator("description")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        return _compiled(value)

    def is_met(self, series: Iterable[SeriesFacts]) -> bool:
        """Return whether one of ``series`` is what is required."""
        return any(
            one.instances >= self.at_least
            and (not self.modality or one.modality == self.modality)
            and (self.description is None or re.search(self.description, one.description, re.IGNORECASE))
            for one in series
        )

    def __str__(self) -> str:
        kind = f"{self.modality} series" if self.modality else "series"
        like = f" described like {self.description!r}" if self.description is not None else ""
        return f"{kind}{like} of at least {self.at_least} Instance{'' if self.at_least == 1 else 's'}"


class CompletenessRule(BaseModel, frozen=True, extra="forbid"):
    """What a Study must have before it goes on, and how long it waits for that; the first rule that matches counts."""

    name: str = Field(pattern=r"^[a-z0-9-]{1,64}$", description="Shown in traces and in the audit log.")
    when: When = When()
    required: tuple[RequiredSeries, ...] = Field(default=(), description="Series the Study must have.")
    wait_s: float = Field(
        gt=0, description="Seconds after the last Instance that a Study waits for these, and for announced Instances."
    )
    then: Literal["draft", "hold"] = Field(
        default="draft", description="What a Study that still lacks one goes on to: draft, with a note, or hold."
    )
    comment: str = Field(default="", description="For the people who maintain the rules.")

    def lacking(self, series: Iterable[SeriesFacts]) -> tuple[str, ...]:
        """Return what is required and not there, in words."""
        held = list(series)
        return tuple(str(one) for one in self.required if not one.is_met(held))


class Rules(BaseModel, frozen=True, extra="forbid"):
    """Two ordered lists of rules: when a Study is whole, and what is done with it then."""

    rules: tuple[Rule, ...]
    completeness: tuple[CompletenessRule, ...] = ()

    def completeness_of(self, facts: StudyFacts) -> CompletenessRule | None:
        """Return the completeness rule that counts for a Study; None when no rule matches."""
        return next((rule for rule in self.completeness if not rule.when.first_miss(facts)), None)

    def judge(self, facts: StudyFacts, *, only_drafting: bool = False) -> RoutingVerdict:
        """Return the verdict of the first rule that matches; a Study no rule matches is ignored, kept and shown.

        Args:
            facts: of the Study.
            only_drafting: pass over rules that ignore or hold: a person asked for a draft.
        """
        trace: list[dict[str, Any]] = []
        for rule in self.rules:
            if only_drafting and rule.action != "draft":
                continue
            miss = rule.when.first_miss(facts)
            trace.append({"rule": rule.name, "matched": not miss, "why": miss or "all conditions hold"})
            if not miss:
                return RoutingVerdict(
                    action=rule.action,
                    profile=rule.profile,
                    priority=rule.priority,
                    rule=rule.name,
                    reason=rule.reason,
                    trace=trace,
                    use=rule.use,
                )
        return RoutingVerdict(action="ignore", reason="no routing rule matches this study", trace=trace)


@dataclass(frozen=True)
class RuleBook:
    """The rules of every called AE title."""

    default: Rules
    by_called_ae: Mapping[str, Rules] = field(default_factory=dict)

    def of(self, called_ae: str) -> Rules:
        """Return the rules of a called AE title; ours when it has none of its own."""
        return self.by_called_ae.get(called_ae, self.default)


def _compiled(value: str | None) -> str | None:
    if value is not None:
        try:
            re.compile(value)
        except re.error as exc:
            raise ValueError(f"not a regular expression: {exc}") from exc
    return value


def _listed(words: Any) -> str:
    return ", ".join(sorted(words)) or "(none)"


def load_rule_book(settings: Settings, *, profiles: Mapping[str, object] | None = None) -> RuleBook:
    """Read the rules of every AE title we answer to.

    Raises:
        ConfigurationError: see :func:`load_rules`.
    """
    own = {one.ae_title: one.routing for one in settings.dicom.profiles if one.routing is not None}
    return RuleBook(
        load_rules(settings.routing, profiles=profiles),
        {ae_title: load_rules(path, profiles=profiles) for ae_title, path in own.items()},
    )


def load_rules(path: Path, *, profiles: Mapping[str, object] | None = None) -> Rules:
    """Read the rules.

    Args:
        path: a YAML file with the key ``rules`` and, when wanted, ``completeness``.
        profiles: known pipeline profiles; when given, a drafting rule must name one.

    Raises:
        ConfigurationError: unreadable, unknown key, bad expression, or unknown profile.
    """
    try:
        rules = Rules.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, ValidationError) as exc:
        raise ConfigurationError(f"routing rules {path}: {exc}") from exc
    for rule in rules.rules:
        if rule.action == "draft" and not rule.profile:
            raise ConfigurationError(f"routing rules {path}: rule {rule.name!r} drafts without a profile")
        if rule.action == "draft" and profiles is not None and rule.profile not in profiles:
            raise ConfigurationError(
                f"routing rules {path}: rule {rule.name!r} names profile {rule.profile!r}; known: {_listed(profiles)}"
            )
    return rules
