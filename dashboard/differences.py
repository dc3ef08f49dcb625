"""Word-level comparison of two texts: the one way every page shows what changed."""

import difflib
import re
from collections.abc import Sequence

Piece = tuple[str, str]  # ("same" | "ins" | "del", text)

_LARGEST = 4_000_000  # words of the one times words of the other; above it whole sentences are compared
_WORD = re.compile(r"\s+|\w+|[^\w\s]")
_SENTENCE = re.compile(r"[^.!?\n]*[.!?\n]+\s*|[^.!?\n]+$")


def word_diff(before: str, after: str) -> list[Piece]:
    """Return the pieces of a word-level comparison as (``same`` | ``ins`` | ``del``, text).

    The pieces that are no ``ins`` make up ``before``, those that are no ``del`` make up ``after``. Two long
    texts that have little in common are compared by sentences, so that no page waits for its comparison.
    """
    old, new = _WORD.findall(before), _WORD.findall(after)
    start = _common(old, new)
    end = _common(old[start:][::-1], new[start:][::-1])
    old_middle, new_middle = old[start : len(old) - end], new[start : len(new) - end]
    if len(old_middle) * len(new_middle) > _LARGEST:
        old_middle, new_middle = (_SENTENCE.findall("".join(words)) for words in (old_middle, new_middle))
    pieces = [
        ("same", "".join(old[:start])),
        *_compare(old_middle, new_middle),
        ("same", "".join(old[len(old) - end :])),
    ]
    return _joined(pieces)


def _common(old: Sequence[str], new: Sequence[str]) -> int:
    """How many words at the start are the same."""
    count = 0
    for one, other in zip(old, new, strict=False):
        if one != other:
            break
        count += 1
    return count


def _compare(old: Sequence[str], new: Sequence[str]) -> list[Piece]:
    pieces: list[Piece] = []
    if len(old) * len(new) > _LARGEST:  # not even by sentences
        return [("del", "".join(old)), ("ins", "".join(new))]
    for kind, a, b, c, d in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            pieces.append(("same", "".join(old[a:b])))
        else:
            pieces += [("del", "".join(old[a:b])), ("ins", "".join(new[c:d]))]
    return pieces


def _joined(pieces: Sequence[Piece]) -> list[Piece]:
    """Leave out what is empty and join neighbours of one kind."""
    joined: list[Piece] = []
    for kind, text in pieces:
        if text and joined and joined[-1][0] == kind:
            joined[-1] = (kind, joined[-1][1] + text)
        elif text:
            joined.append((kind, text))
    return joined
