"""What a question's page shows: its form as it was filled in, and one page of the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dashboard.auditing.verifying import Verified
from dashboard.permissions import Permission
from db.queries.audit.asking import Asked, Stand
from db.queries.audit.questions import Kind, Parameter, Question

PREFIX = "p."  # of a parameter's field, which so never meets the form's own
PAGE_ROWS = 100


@dataclass(frozen=True)
class Field:
    """One parameter's field; ``value`` is what was given, or the default."""

    parameter: Parameter
    value: str

    @property
    def name(self) -> str:
        """The field's name in the form."""
        return PREFIX + self.parameter.name

    @property
    def id(self) -> str:
        """The field's id on the page."""
        return f"p-{self.parameter.name}"

    @property
    def is_choice(self) -> bool:
        """Whether it is a list to choose from."""
        return self.parameter.kind is Kind.CHOICE

    @property
    def mode(self) -> str:
        """The keyboard a touch screen shows."""
        return "decimal" if self.parameter.kind is Kind.NUMBER else "text"


@dataclass(frozen=True)
class QuestionPage:
    """One question; ``asked`` is a page of its answer, ``error`` what was refused."""

    question: Question
    fields: Sequence[Field]
    asked: Asked | None = None
    stand: Stand | None = None
    error: str = ""
    verified: Verified | None = None

    @property
    def is_verifiable(self) -> bool:
        """Whether the page offers to verify the log of the period."""
        return self.question.name == "Q5"


def fields(question: Question, given: Mapping[str, str]) -> Sequence[Field]:
    """Return the form's fields with what was given; an empty form has the defaults."""
    return [Field(one, given.get(one.name, "" if given else one.default)) for one in question.parameters]


def given_in(form: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters of a form that was sent; empty ones are not given."""
    return {name.removeprefix(PREFIX): value for name, value in form.items() if name.startswith(PREFIX) and value}


def permission_of(question: Question) -> Permission:
    """Return what it takes to ask a question."""
    return Permission(question.audience.value)
