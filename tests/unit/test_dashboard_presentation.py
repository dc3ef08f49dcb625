"""Names, dates and differences read the way a reading room writes them."""

from datetime import timedelta

import pytest

from config.results import ResultKind
from dashboard.passwords import hash_password, random_password, verify_password
from dashboard.presentation import (
    age_at,
    dicom_date,
    dicom_time,
    elapsed,
    person_name,
    result_kind,
    status_pill,
    waiting_class,
    word_diff,
)
from db.types import Priority, ReadingState, ReportState, utcnow


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("Doe^John", "DOE, John"),
        ("O'Brien^Siobhan^Mary", "O'BRIEN, Siobhan Mary"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "YAMADA, Tarou"),
        ("=山田^太郎", "山田, 太郎"),
        ("Madonna", "MADONNA"),
        ("", "Name not given"),
        ("^^^", "Name not given"),
    ],
)
def test_a_person_name_is_family_first(value: str, shown: str) -> None:
    assert person_name(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [("20261122", "2026-11-22"), ("", "–"), ("2026", "2026"), ("unknown", "unknown")]
)
def test_a_date_is_readable_or_left_alone(value: str, shown: str) -> None:
    assert dicom_date(value) == shown


def test_a_time_has_hours_and_minutes() -> None:
    assert [dicom_time(v) for v in ("083015.123", "0830", "", "x")] == ["08:30", "08:30", "", ""]


@pytest.mark.parametrize(
    ("born", "day", "age"),
    [
        ("19580214", "20261121", "68 y"),
        ("19580214", "20260213", "67 y"),
        ("20250401", "20261121", "19 mo"),
        ("20261101", "20261121", "20 d"),
        ("", "20261121", ""),
        ("19000231", "20261121", ""),
        ("20300101", "20261121", ""),
    ],
)
def test_age_is_at_the_study_in_the_unit_that_fits(born: str, day: str, age: str) -> None:
    assert age_at(born, day) == age


def test_a_waiting_clock_counts_in_the_largest_unit() -> None:
    now = utcnow()
    ages = [timedelta(seconds=5), timedelta(minutes=7), timedelta(hours=3), timedelta(days=2)]
    assert [elapsed(now - age) for age in ages] == ["5 s", "7 min", "3 h", "2 d"]
    assert elapsed(None) == "–"


def test_an_urgent_study_grows_red_sooner_than_a_routine_one() -> None:
    hour_ago = utcnow() - timedelta(minutes=65)
    assert [waiting_class(hour_ago, p) for p in (Priority.STAT, Priority.URGENT, Priority.ROUTINE)] == [
        "age-bad",
        "age-warn",
        "",
    ]


def test_the_report_speaks_before_the_pipeline() -> None:
    assert status_pill(ReportState.FINAL, ReadingState.DRAFTED)[0] == "Final"
    assert status_pill(ReportState.UNREAD, ReadingState.NO_DRAFT)[0] == "No AI draft"
    assert all(status_pill(ReportState.UNREAD, state)[0] for state in ReadingState)


def test_a_difference_can_be_put_together_again() -> None:
    before, after = "No pleural effusion. Heart normal.", "Small pleural effusion. Heart normal."
    pieces = word_diff(before, after)
    assert "".join(text for kind, text in pieces if kind != "ins") == before
    assert "".join(text for kind, text in pieces if kind != "del") == after
    assert ("del", "No") in pieces
    assert ("ins", "Small") in pieces


def test_a_password_hash_fits_its_password_only() -> None:
    stored = hash_password("correct-horse-battery")
    assert stored.startswith("$argon2id$")
    assert verify_password(stored, "correct-horse-battery")
    assert not verify_password(stored, "correct-horse-batterz")
    assert not verify_password(None, "correct-horse-battery")
    assert not verify_password("not a hash", "correct-horse-battery")


def test_random_passwords_are_long_and_differ() -> None:
    made = {random_password() for _ in range(100)}
    assert len(made) == 100
    assert all(len(password) == 20 for password in made)


def test_every_kind_of_result_has_words_of_its_own() -> None:
    words = [result_kind(kind) for kind in ResultKind]
    assert len(set(words)) == len(words)
    assert not [one for one in words if "_" in one]
