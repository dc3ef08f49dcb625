"""What a worklist's address means, and how a list differs from what is on the screen."""

from uuid import UUID

import pytest
from werkzeug.datastructures import MultiDict

from config.errors import RefusedInputError
from dashboard.worklist_view import Asked, News, asked_of, asked_of_query, news
from db.queries import Sort, Tab
from db.types import Priority, utcnow

ME, OTHER = UUID(int=1), UUID(int=2)
A, B, C, D = (UUID(int=n) for n in range(10, 14))


def test_an_address_and_what_it_asks_for_are_the_same_thing():
    query = "tab=mine&modality=CT&priority=STAT&assigned=me&sender=CT1&days=7&sort=oldest"
    asked = asked_of_query(query)
    assert asked == Asked(Tab.MINE, "CT", Priority.STAT, "me", "CT1", "7", sort=Sort.OLDEST)
    assert asked.query() == dict(pair.split("=") for pair in query.split("&"))
    assert asked_of(MultiDict(asked.query())) == asked
    assert asked_of_query("tab=nonsense&modality=CT") == Asked()
    assert asked_of_query("search=Halvorsen").query() == {"tab": "to_read"}  # a name never gets into an address


def test_what_narrows_a_list_follows_from_its_address():
    wanted = asked_of(MultiDict({"assigned": "me", "first": "2026-11-01", "last": "2026-11-02"}), "doe").wanted(ME)
    assert (wanted.assigned, wanted.first_date, wanted.last_date, wanted.search) == (ME, "20261101", "20261102", "doe")
    assert asked_of(MultiDict({"assigned": str(OTHER)})).wanted(ME).assigned == OTHER
    assert asked_of(MultiDict({"days": "1"})).wanted(ME).first_date == f"{utcnow().astimezone():%Y%m%d}"
    assert Asked().wanted(ME).is_all
    for wrong in ({"assigned": "x"}, {"first": "1.11.2026"}, {"last": "2026-13-01"}):
        with pytest.raises(RefusedInputError):
            asked_of(MultiDict(wrong)).wanted(ME)


@pytest.mark.parametrize(
    ("shown", "now", "still", "words"),
    [
        ([A, B], [A, B], {A, B}, ""),
        ([A, B], [C, A, B], {A, B}, "1 new"),
        ([A, B], [B], {B}, "1 no longer here"),
        ([A, B], [C, A], {A, B}, "1 new"),  # B is on the next page
        ([A, B, C], [D], set(), "1 new, 3 no longer here"),
        ([A, B], [B, A], {A, B}, "the order is another"),
        ([], [], set(), ""),
    ],
)
def test_the_bar_says_what_is_different(shown, now, still, words):
    assert news(shown, now, frozenset(still)).words == words


def test_no_news_is_silent():
    assert News().words == ""
