"""A Study of which retention took a part is not the Study: nobody reads it."""

from datetime import UTC, datetime

import pytest

from config.errors import PixelsDeletedError, RefusedInputError
from db.queries import InstancePath
from worker.integrity import require_kept


def held(number: int, deleted_at: datetime | None = None) -> InstancePath:
    uid = f"1.2.{number}"
    return InstancePath(f"{uid}.dcm", uid, "1", "1", "1.2", 1, "", "CT", number, "0" * 64, 1, 1, deleted_at)


def test_a_whole_study_is_read() -> None:
    require_kept([held(1), held(2)])


def test_a_part_that_is_gone_is_told_with_its_number_and_the_last_day() -> None:
    with pytest.raises(PixelsDeletedError) as told:
        require_kept(
            [held(1), held(2, datetime(2026, 1, 3, 23, tzinfo=UTC)), held(3, datetime(2026, 2, 1, tzinfo=UTC))]
        )
    assert str(told.value) == "2 of 3 images were deleted by retention on 2026-02-01"
    assert isinstance(told.value, RefusedInputError)  # never retried, and a reason a person reads
