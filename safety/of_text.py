"""Rules about the text alone: gaps, an empty impression, dates to come, comparisons with nothing."""

import re
from collections.abc import Iterator
from datetime import date, timedelta

from safety.facts import Issue, ReportFacts
from safety.text import SPOKEN, is_asked, is_denied, sentences
from safety.vocabulary import COMPARES, CRITICAL, NOT_EARLIER, PLACEHOLDER, TOLD

_DATE = re.compile(r"\b(\d{4})-(\d\d)-(\d\d)\b|\b(\d{1,2})[./](\d{1,2})[./](\d{4})\b")
_PLANS = re.compile(r"\b(?:follow|plan\w*|schedul\w*|recommend\w*|appointment|due|next|control|until|repeat)\b")


def placeholders(facts: ReportFacts) -> Iterator[Issue]:
    """Yield what a template left open."""
    for key, text in facts.sections.items():
        for match in PLACEHOLDER.finditer(text):
            yield Issue(
                "placeholder", f"An open field is left in the text: {match[0]}", key, match.start(), match.end()
            )


def empty_impression(facts: ReportFacts) -> Iterator[Issue]:
    """Yield an issue when there is no impression."""
    if not facts.is_addendum and not facts.sections.get("impression", "").strip():
        yield Issue("impression_empty", "The impression is empty.", "impression")


def future_dates(facts: ReportFacts) -> Iterator[Issue]:
    """Yield every date after today that is no plan; a day is granted to other time zones."""
    for one in sentences(facts.sections, tuple(facts.sections)):
        if one.asks or _PLANS.search(one.said):
            continue
        for match in _DATE.finditer(one.said):
            days = _days(match)
            if days and min(days) > facts.today + timedelta(days=1):
                at = one.place.start + match.start()
                yield Issue("date_future", f"{match[0]} is in the future.", one.place.section, at, at + len(match[0]))


def _days(match: re.Match[str]) -> list[date]:
    """Return the days a date may mean: 03/04 is read both ways."""
    if match[1]:
        orders = [(match[1], match[2], match[3])]
    else:
        orders = [(match[6], match[5], match[4]), (match[6], match[4], match[5])]
    found = []
    for year, month, day in orders:
        try:
            found.append(date(int(year), int(month), int(day)))
        except ValueError:
            continue
    return found


def comparisons(facts: ReportFacts) -> Iterator[Issue]:
    """Yield every statement about change while no earlier study is here."""
    if facts.has_prior:
        return
    for one in sentences(facts.sections, SPOKEN):
        if one.asks or NOT_EARLIER.search(one.said):
            continue
        match = COMPARES.search(one.said)
        if match is not None:
            words = f"“{match[0]}” speaks of an earlier study; none is here."
            yield Issue("comparison", words, one.place.section, one.place.start, one.place.end)


def critical(facts: ReportFacts) -> Iterator[Issue]:
    """Yield critical results that nobody answered, or that the text states without saying who was told."""
    for label in facts.open_alerts:
        yield Issue("critical_open", f"Suspected critical result, neither confirmed nor dismissed: {label}.")
    for label in facts.untold_alerts:
        yield Issue("critical_untold", f"Confirmed critical result, and nobody was told yet: {label}.")
    told = (
        facts.has_communication
        or bool(facts.untold_alerts)
        or any(TOLD.search(text.lower()) for text in facts.sections.values())
    )
    if told:
        return
    for one in sentences(facts.sections, SPOKEN):
        match = CRITICAL.search(one.said)
        if match and not is_denied(one.said, *match.span()) and not is_asked(one.said, match.start()):
            words = f"The text states {match[0]}; nothing says who was told, and when."
            yield Issue("critical_untold", words, one.place.section, one.place.start, one.place.end)
            return
