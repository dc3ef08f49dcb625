"""What the worklist's address asks for, and what its page shows of each study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from flask import url_for
from werkzeug.datastructures import MultiDict

from config.errors import RefusedInputError
from dashboard.desk import OPENABLE
from dashboard.people import Person
from dashboard.permissions import Permission
from dashboard.presentation import status_pill
from db.lifecycle.assigning import CLOSED
from db.queries import COUNT_LIMIT, NOBODY, CompletionTimer, Sort, Tab, Wanted, Worklist, WorklistRow
from db.types import Priority, ReadingState, ReportState, utcnow

MODALITIES = ("CR", "CT", "DX", "MG", "MR", "NM", "PT", "RF", "US", "XA")
DAYS: Mapping[str, str] = {"1": "Today", "2": "2 days", "7": "7 days", "30": "30 days"}
SORTS: Mapping[Sort, str] = {
    Sort.URGENT: "Most urgent first",
    Sort.OLDEST: "Oldest first",
    Sort.NEWEST: "Newest first",
}
ORDERS: Mapping[Sort, str] = {
    Sort.URGENT: "STAT, suspected critical, urgent, routine; the oldest first in each",
    Sort.OLDEST: "the oldest first",
    Sort.NEWEST: "the newest first",
}
TITLES: Mapping[Tab, str] = {
    Tab.MINE: "Mine",
    Tab.NO_DRAFT: "Unread",
    Tab.TO_READ: "Drafted",
    Tab.IN_REVIEW: "In review",
    Tab.PRELIMINARY: "Prelims to sign",
    Tab.FINAL_TODAY: "Final today",
    Tab.REJECTED: "Rejected",
    Tab.PROBLEMS: "Problems",
    Tab.PROCESSING: "In progress",
    Tab.SIGNED: "All final",
    Tab.ALL: "All",
}
HINTS: Mapping[Tab, str] = {
    Tab.MINE: "Assigned to you or locked by you, and not final yet.",
    Tab.NO_DRAFT: "Here, and without an AI draft; each row says why.",
    Tab.PROBLEMS: "What does not go on by itself: the AI failed, the study is held, or a result was not delivered.",
    Tab.FINAL_TODAY: "Signed, addended or corrected since midnight.",
}
AGAIN = frozenset({ReadingState.HELD, ReadingState.IGNORED, ReadingState.FAILED, ReadingState.NO_DRAFT})
_WAITING = frozenset({ReportState.UNREAD, ReportState.DRAFTED, ReportState.IN_REVIEW, ReportState.PRELIMINARY})
ME = "me"
_LENGTHS: Mapping[str, int] = {  # of what an address may hold
    "tab": 16,
    "modality": 16,
    "priority": 16,
    "assigned": 36,
    "sender": 16,
    "days": 2,
    "first": 10,
    "last": 10,
    "sort": 16,
    "after": 100,
    "before": 100,
}


@dataclass(frozen=True)
class Asked:
    """What the address asks for; nothing in it names a patient. The search words live in the session."""

    tab: Tab = Tab.TO_READ
    modality: str = ""
    priority: Priority | None = None
    assigned: str = ""  # me, nobody, or the id of an account
    sender: str = ""
    days: str = ""  # so many, today counted
    first: str = ""  # ISO dates
    last: str = ""
    sort: Sort = Sort.URGENT
    after: str = ""
    before: str = ""
    search: str = ""

    @property
    def filters(self) -> dict[str, str]:
        """What narrows and orders the list, as in its address."""
        given = {
            "modality": self.modality,
            "priority": self.priority or "",
            "assigned": self.assigned,
            "sender": self.sender,
            "days": self.days,
            "first": self.first,
            "last": self.last,
            "sort": "" if self.sort is Sort.URGENT else self.sort,
        }
        return {name: str(value) for name, value in given.items() if value}

    @property
    def is_narrowed(self) -> bool:
        """Whether a filter or a search leaves something out."""
        return bool(self.search or set(self.filters) - {"sort"})

    def address(self, endpoint: str = "worklist.show", **more: Any) -> str:
        """Return the address of this list at the place where it is."""
        return url_for(endpoint, **self.query(**more))

    def query(self, **more: Any) -> dict[str, Any]:
        """Return the query of that address."""
        given = {"tab": self.tab.value, **self.filters, "after": self.after, "before": self.before} | more
        return {name: value for name, value in given.items() if value}

    def wanted(self, reader: UUID) -> Wanted:
        """Return what narrows the list; ``me`` is ``reader``.

        Raises:
            RefusedInputError: a date or an account that is none.
        """
        try:
            first = _day(self.first)
            last = _day(self.last)
            if self.days:
                first = f"{utcnow().astimezone().date() - timedelta(days=int(self.days) - 1):%Y%m%d}"
            assigned: UUID | str = self.assigned
            if assigned == ME:
                assigned = reader
            elif assigned not in {"", NOBODY}:
                assigned = UUID(self.assigned)
        except ValueError as exc:
            raise RefusedInputError("there is no such list") from exc
        return Wanted(self.search, self.modality, self.priority, assigned, self.sender, first, last)

    def here(self) -> "Asked":
        """Return the same list from its beginning."""
        return replace(self, after="", before="")


def asked_of(args: MultiDict[str, str], search: str = "") -> Asked:
    """Return what an address asks for.

    Raises:
        RefusedInputError: a value that no page of ours offers.
    """
    get = {name: args.get(name, "")[:limit] for name, limit in _LENGTHS.items()}
    tab, sort = get["tab"] or Tab.TO_READ.value, get["sort"] or Sort.URGENT.value
    offered = ((tab, {*Tab}), (sort, {*Sort}), (get["priority"], {"", *Priority}), (get["days"], {"", *DAYS}))
    if any(value not in values for value, values in offered):
        raise RefusedInputError("there is no such list")
    return Asked(
        tab=Tab(tab),
        modality=get["modality"],
        priority=Priority(get["priority"]) if get["priority"] else None,
        assigned=get["assigned"],
        sender=get["sender"],
        days=get["days"],
        first=get["first"],
        last=get["last"],
        sort=Sort(sort),
        after=get["after"],
        before=get["before"],
        search=search,
    )


def asked_of_query(query: str) -> Asked:
    """Return what the query of a worklist's address asks for; the usual list where it is none of ours."""
    given = MultiDict({name: values[0] for name, values in parse_qs(query[:600]).items()})
    try:
        return asked_of(given)
    except RefusedInputError:
        return Asked()


def _day(value: str) -> str:
    return f"{date.fromisoformat(value):%Y%m%d}" if value else ""


@dataclass(frozen=True)
class TabView:
    """One tab with its count; what nobody counted has none."""

    key: str
    title: str
    count: str
    address: str
    hint: str
    alarm: bool


@dataclass(frozen=True)
class RowView:
    """One study of the list, and what this person may do with it."""

    row: WorklistRow
    pill: tuple[str, str]
    is_waiting: bool
    can_open: bool
    can_take_over: bool
    can_process: bool
    can_take: bool
    can_leave: bool
    can_choose: bool
    timer: CompletionTimer | None  # while it is being received


def tab_views(found: Worklist, asked: Asked) -> list[TabView]:
    """Return the tabs; each keeps the filters of the list that is shown."""
    views = []
    for tab, title in TITLES.items():
        number = found.counts[tab]
        count = "" if number is None else f"{COUNT_LIMIT - 1}+" if number >= COUNT_LIMIT else str(number)
        address = replace(asked.here(), tab=tab).address()
        alarm = tab is Tab.PROBLEMS and bool(number)
        views.append(TabView(tab.value, title, count, address, HINTS.get(tab, ""), alarm))
    return views


def row_view(row: WorklistRow, timer: CompletionTimer | None, person: Person) -> RowView:
    """Return what ``person`` sees of a row."""
    state = row.report_state
    edits = person.may(Permission.REPORT_EDIT)
    assignable = edits and state not in CLOSED and not row.is_prior
    return RowView(
        row=row,
        pill=status_pill(state if state is not ReportState.UNREAD else None, row.reading_state),
        is_waiting=state in _WAITING,
        can_open=edits and state in OPENABLE and row.locked_by_id in {None, person.id},
        can_take_over=edits and state in OPENABLE and row.locked_by_id not in {None, person.id},
        can_process=_can_process(row, person),
        can_take=assignable and row.assigned_to_id != person.id,
        can_leave=assignable and row.assigned_to_id == person.id,
        can_choose=assignable,
        timer=timer,
    )


def _can_process(row: WorklistRow, person: Person) -> bool:
    stuck = row.report_state is ReportState.UNREAD and row.reading_state in AGAIN and not row.is_prior
    return stuck and person.may(Permission.PROCESS_AGAIN)


@dataclass(frozen=True)
class News:
    """How a list differs from what somebody has on the screen."""

    fresh: int = 0
    gone: int = 0
    moved: bool = False

    @property
    def words(self) -> str:
        """What the bar says; empty when nothing changed."""
        parts = [f"{self.fresh} new"] if self.fresh else []
        parts += [f"{self.gone} no longer here"] if self.gone else []
        parts += ["the order is another"] if self.moved and not parts else []
        return ", ".join(parts)


def news(shown: Sequence[UUID], now: Sequence[UUID], still: frozenset[UUID]) -> News:
    """Return how a page differs from the rows on the screen.

    Args:
        shown: the rows on the screen, in their order.
        now: those of the page as it is now.
        still: which of the shown ones are on the list yet, if not on this page.
    """
    stayed = [one for one in shown if one in set(now)]
    return News(
        fresh=len(set(now) - set(shown)),
        gone=len(set(shown) - still),
        moved=stayed != [one for one in now if one in set(shown)],
    )
