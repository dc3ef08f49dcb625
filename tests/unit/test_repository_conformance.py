"""docs/conformance.md promises peers what the node does."""

import re
from pathlib import Path

from dicom_node import policy
from dicom_node.library import ACSE_TIMEOUT_S, DIMSE_TIMEOUT_S
from dicom_node.storing import INTERNAL_ERROR, STATUS
from dicom_node.transfer_syntaxes import ACCEPTED
from instances.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from reports.values import SERIES_NUMBERS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "conformance.md").read_text(encoding="utf-8")


def test_transfer_syntaxes_are_listed_in_the_order_of_preference() -> None:
    listed = re.findall(r"^\| (\d+) \| [^|]+ \| `([0-9.]+)` \|$", PAGE, re.MULTILINE)
    assert listed == [(str(rank), str(uid)) for rank, uid in enumerate(ACCEPTED, 1)]


def test_every_status_is_listed_with_its_comment_in_the_order_matched() -> None:
    listed = re.findall(r"^\| `([0-9A-F]{4})` \| ([^|]+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert listed == [(f"{status:04X}", comment, kind.__name__) for kind, (status, comment) in STATUS.items()]
    status, comment = INTERNAL_ERROR
    assert f"| `{status:04X}` | {comment} | any other |" in PAGE


def test_every_rejection_is_listed() -> None:
    listed = set(re.findall(r"^\| (\d) \| (\d) \| (\d) \| ([^|]+) \|$", PAGE, re.MULTILINE))
    known = [value for value in vars(policy).values() if isinstance(value, policy.Rejection)]
    assert listed == {(str(r.result), str(r.source), str(r.diagnostic), r.reason) for r in known}


def test_implementation_timeouts_and_series_numbers_are_the_ones_in_force() -> None:
    assert f"`{IMPLEMENTATION_CLASS_UID}`" in PAGE
    assert f"`{IMPLEMENTATION_VERSION_NAME}`" in PAGE
    assert f"| ARTIM and association request timeout | {ACSE_TIMEOUT_S:.0f} s |" in PAGE
    assert f"| DIMSE timeout | {DIMSE_TIMEOUT_S:.0f} s |" in PAGE
    row = re.search(r"^\| Series Number \|(.+)\|$", PAGE, re.MULTILINE)
    assert row is not None
    assert [int(n) for n in re.findall(r"\d+", row[1])] == list(SERIES_NUMBERS.values())
