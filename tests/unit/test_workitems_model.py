"""How a Reading looks as a UPS, what a payload may hold, and what keys ask for."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from itertools import product
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.uid import UID
from werkzeug.datastructures import MultiDict

from config.errors import RefusedInputError
from dashboard.workitems.asked import MOST, bare_parameter, parse, parse_filter
from dashboard.workitems.payload import read_payload
from dashboard.workitems.requirements import instant, lacking_at_end
from db.lifecycle.tables import READING_MOVES
from db.types import ReadingState
from db.workitem_matching import Key, Wanted, kept_filter
from db.workitem_models import Readiness, StepState
from db.workitem_values import reading_of, run_uid, step_of

S = StepState
# PS3.4 table CC.1.1-2: what may follow what, through IN PROGRESS; a canceled run ends, and another begins
NEXT = {
    S.SCHEDULED: {S.SCHEDULED, S.IN_PROGRESS, S.CANCELED},
    S.IN_PROGRESS: {S.IN_PROGRESS, S.COMPLETED, S.CANCELED},
    S.CANCELED: {S.SCHEDULED},
    S.COMPLETED: set(),
}


@pytest.mark.parametrize(("left", "to"), READING_MOVES)
def test_no_move_of_a_reading_takes_a_workitem_back(left: ReadingState, to: ReadingState) -> None:
    for attempts in (0, 1, 2):
        reached = attempts > 0 or left not in {ReadingState.RUNNING, ReadingState.RETRYING}
        if not reached:
            continue
        again = left in {ReadingState.HELD, ReadingState.IGNORED, ReadingState.FAILED, ReadingState.NO_DRAFT}
        after = 0 if again else attempts + (to is ReadingState.RUNNING)
        before = step_of(left, attempts=attempts, superseded=False).state
        assert step_of(to, attempts=after, superseded=False).state in NEXT[before]


@pytest.mark.parametrize(
    ("state", "attempts", "superseded", "step", "readiness"),
    [
        ("RECEIVING", 0, False, "SCHEDULED", "INCOMPLETE"),
        ("HELD", 0, False, "SCHEDULED", "INCOMPLETE"),
        ("HELD", 0, True, "CANCELED", "INCOMPLETE"),
        ("HELD", 1, False, "CANCELED", "INCOMPLETE"),  # taken from its worker
        ("QUEUED", 0, False, "SCHEDULED", "READY"),
        ("QUEUED", 1, False, "IN PROGRESS", "READY"),
        ("RUNNING", 1, False, "IN PROGRESS", "READY"),
        ("RETRYING", 1, False, "IN PROGRESS", "READY"),
        ("DRAFTED", 1, True, "COMPLETED", "READY"),
        ("NO_DRAFT", 1, False, "CANCELED", "READY"),
        ("FAILED", 3, False, "CANCELED", "READY"),
        ("IGNORED", 0, False, "CANCELED", "READY"),
    ],
)
def test_each_state_of_a_reading_is_one_of_a_step(state, attempts, superseded, step, readiness) -> None:
    found = step_of(ReadingState(state), attempts=attempts, superseded=superseded)
    assert (found.state, found.readiness) == (StepState(step), Readiness(readiness))


def test_every_state_of_a_reading_is_a_step() -> None:
    for state, attempts, superseded in product(ReadingState, (0, 1), (False, True)):
        assert step_of(state, attempts=attempts, superseded=superseded).state in set(StepState)


@given(st.uuids())
def test_the_uid_of_a_first_run_leads_back_to_its_reading(key: UUID) -> None:
    assert UID(run_uid(key)).is_valid
    assert reading_of(run_uid(key)) == key


def test_each_run_has_a_uid_of_its_own() -> None:
    key = uuid4()
    uids = [run_uid(key, number) for number in range(1, 50)]
    assert len(set(uids)) == 49
    assert all(UID(one).is_valid for one in uids)
    assert uids == [run_uid(key, number) for number in range(1, 50)]


@pytest.mark.parametrize("uid", ["", "1.2.3", "2.25.", "2.25.x", "2.25.-1", "2.25.٣", "2.25." + "9" * 60])
def test_a_uid_that_was_made_of_no_reading_leads_to_none(uid: str) -> None:
    assert reading_of(uid) is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_TAGS = st.sampled_from(["00100010", "00404021", "0020000D", "00741200", "00404005", "00100020", "7FE00010"])
_ELEMENTS = st.fixed_dictionaries({
    "vr": st.sampled_from(["PN", "SQ", "UI", "CS", "DT", "LO", "OW", "XX"]) | st.text(max_size=2),
    "Value": _JSON | st.lists(_JSON, max_size=3),
})  # fmt: skip


@given(st.dictionaries(_TAGS | st.text(max_size=9), _ELEMENTS | _JSON, max_size=4))
def test_any_json_is_a_data_set_or_refused(sent: dict) -> None:
    found = None
    with suppress(RefusedInputError):
        found = read_payload(json.dumps(sent).encode())
    elements = found.elements if found else {}
    assert [tag for tag, one in elements.items() if one["vr"] not in dictionary_VR(int(tag, 16)).split(" or ")] == []


@given(st.binary(max_size=64))
def test_any_bytes_are_a_data_set_or_refused(body: bytes) -> None:
    found = None
    with suppress(RefusedInputError):
        found = read_payload(body)
    assert found is None or isinstance(found.elements, dict)


@pytest.mark.parametrize(
    ("value", "offset", "expected"),
    [
        ("20261122093000+0000", "", datetime(2026, 11, 22, 9, 30, tzinfo=UTC)),
        ("20261122093000.5-0500", "", datetime(2026, 11, 22, 14, 30, 0, 500_000, tzinfo=UTC)),
        ("20261122093000", "+0100", datetime(2026, 11, 22, 8, 30, tzinfo=UTC)),
        ("20261122", "+0000", datetime(2026, 11, 22, tzinfo=UTC)),
        ("2026", "+0000", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_datetime_is_the_instant_it_names(value: str, offset: str, expected: datetime) -> None:
    assert instant(value, offset) == expected


@pytest.mark.parametrize("value", ["", "x", "20261301", "20260230", "20261122250000", "20261122093000+9999"])
def test_a_datetime_that_is_none_is_refused(value: str) -> None:
    with pytest.raises(RefusedInputError):
        instant(value, "+0000")


@pytest.mark.parametrize(
    ("value", "since", "until"),
    [
        ("20261122090000+0000-", datetime(2026, 11, 22, 9, tzinfo=UTC), None),
        ("20261122090000 0100-", datetime(2026, 11, 22, 8, tzinfo=UTC), None),  # a plus sign is a blank in an address
        ("20261122090000-0100-", datetime(2026, 11, 22, 10, tzinfo=UTC), None),
        ("-20261122090000-0100", None, datetime(2026, 11, 22, 10, 0, 0, 999_999, tzinfo=UTC)),
        (
            "20261122090000+0000-20261122100000+0000",
            datetime(2026, 11, 22, 9, tzinfo=UTC),
            datetime(2026, 11, 22, 10, 0, 0, 999_999, tzinfo=UTC),
        ),
    ],
)
def test_a_range_of_datetimes_ends_where_its_precision_does(value, since, until) -> None:
    query = parse(MultiDict({"ScheduledProcedureStepStartDateTime": value}))
    assert query.wanted == [Wanted(Key.SCHEDULED, since=since, until=until)]


def test_a_filter_is_kept_and_read_back_as_it_was() -> None:
    wanted = parse_filter("PatientID=P-1,ScheduledProcedureStepStartDateTime=20261122+0000-,00741204=Read, please")
    assert kept_filter([one.kept() for one in wanted]) == wanted
    assert [one.key for one in wanted] == [Key.PATIENT_ID, Key.SCHEDULED, Key.LABEL]
    assert wanted[2].values == ("Read, please",)


def test_a_window_has_an_end() -> None:
    assert parse(MultiDict({"limit": "999999999"})).limit == MOST
    assert parse(MultiDict()).limit == MOST
    assert parse(MultiDict({"limit": "0"})).limit == 0


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"transaction-uid": "1.2"}, "1.2"),
        ({"1.2.3": ""}, "1.2.3"),
        ({}, ""),
        ({"x": ""}, ""),
        ({"1.2": "", "1.3": ""}, ""),
    ],
)
def test_a_uid_is_taken_by_its_name_or_alone(query: dict[str, str], expected: str) -> None:
    assert bare_parameter(("transaction-uid",), MultiDict(query)) == expected


def test_a_canceled_step_needs_nothing_performed_and_a_completed_one_all_of_it() -> None:
    assert lacking_at_end({}, StepState.CANCELED) == []
    assert lacking_at_end({}, StepState.COMPLETED) == ["Unified Procedure Step Performed Procedure Sequence"]
    half = {
        "00741216": {"vr": "SQ", "Value": [{"00404050": {"vr": "DT", "Value": ["2026"]}, "00404033": {"vr": "SQ"}}]}
    }
    assert lacking_at_end(half, StepState.COMPLETED) == [
        "Performed Station Name Code Sequence",
        "Performed Workitem Code Sequence",
        "Performed Procedure Step End DateTime",
        "Output Information Sequence",
    ]
