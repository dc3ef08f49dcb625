"""docs/settings.md names every knob with its variable, default and description."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from config.settings import ROOT, AeProfile, Destination, Peer, PriorSource, Settings

PAGE = ROOT / "docs" / "settings.md"


def shown_default(field: FieldInfo) -> str:
    """Return a default as the page shows it; a path inside the checkout without the checkout's own place."""
    value: Any = field.get_default(call_default_factory=False)
    if field.is_required():
        return "required"
    if value is None or value in ("", ()):
        return "empty"
    if isinstance(value, Path):
        return f"`{value.relative_to(ROOT).as_posix()}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def settings_rows(model: type[BaseModel] = Settings, prefix: str = "FIRSTREAD_") -> Iterator[str]:
    """Yield one table row for each field, nested ones with two underscores."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        variable = f"{prefix}{name}".upper()
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from settings_rows(inner, f"{variable}__")
        else:
            yield f"| `{variable}` | {shown_default(field)} | {field.description} |"


def list_rows(model: type[BaseModel]) -> Iterator[str]:
    """Yield one table row for each key of an object in a list."""
    for name, field in model.model_fields.items():
        yield f"| `{name}` | {shown_default(field)} | {field.description} |"


LISTED = (Destination, Peer, AeProfile, PriorSource)
EXPECTED = [*settings_rows(), *(row for model in LISTED for row in list_rows(model))]


@pytest.mark.requirement("REQ-CONF-2")
@pytest.mark.parametrize("row", EXPECTED, ids=lambda row: row.split("`")[1])
def test_every_setting_is_documented_with_its_default(row: str) -> None:
    assert row in PAGE.read_text(encoding="utf-8").splitlines(), f"docs/settings.md lacks this line:\n{row}"


def test_every_setting_has_a_description() -> None:
    assert [row for row in EXPECTED if row.endswith(("| None |", "|  |"))] == []


def test_the_page_names_no_setting_that_does_not_exist() -> None:
    known = {row.split("`")[1] for row in EXPECTED}
    named = set(re.findall(r"FIRSTREAD_[A-Z0-9_]*[A-Z]", PAGE.read_text(encoding="utf-8")))
    # a group's prefix, as in "FIRSTREAD_DICOM__*", is no variable of its own
    groups = {"__".join(name.split("__")[:-1]) for name in known if "__" in name}
    assert named - known - groups == set()
