"""Where in a text a number of somebody can begin: a quick look that leaves out most of what is digits. Pure.

What it lets pass is looked at by the detectors themselves. A number passes by its form, or by a word before it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

CONTEXT = 64
"""So far before a number a word can say what it is."""
SPACES = " \t\xa0\u1680\u2000-\u200a\u202f\u205f\u3000"
DASHES = ".\\-\u2010-\u2015\u2212\ufe58\ufe63\uff0d"
_GAP = rf"[{SPACES}{DASHES}/()·]{{1,4}}"
_ANY_GAP = rf"[{SPACES}{DASHES}/()·]{{0,4}}"
_END = r"(?!\d)"
# Behind the first digit of a group; the digit itself is looked at again from there.
_FORMS = (
    # Cards, and persons' numbers of many digits, in one piece and in groups.
    r"\d{13}(?!\d)|\d{15,19}(?!\d)",
    rf"[2-68]\d{{7}}{_GAP}\d{{8}}",
    rf"[2-68]\d{{3}}{_GAP}(?:\d{{4}}{_GAP}\d{{4}}{_GAP}\d|\d{{6}}{_GAP}\d{{4,5}}{_END})",
    rf"(?:50|5[6-8]|6[37])\d\d{_GAP}\d{{4}}{_GAP}\d{{4}}{_END}",
    rf"[2-68]\d\d{_GAP}\d{{3}}{_GAP}\d{{3}}{_GAP}\d{{3}}{_GAP}\d|[2-68]\d\d(?:{_GAP}\d{{3}}){{3}}{_END}",
    rf"[2-68]\d{{4}}{_GAP}\d{{5}}{_GAP}\d|[2-68]\d{{5}}{_GAP}\d{{6}}{_END}|[2-68]\d{{5}}{_GAP}\d{{6}}{_GAP}\d",
    # Phones: as they are dialled at home, and in North America.
    rf"0(?:{_ANY_GAP}\d){{8}}",
    rf"(?:(?:1|001){_GAP})?[2-9]\d\d{_GAP}\d{{3}}{_GAP}\d{{4}}{_END}",
    # Persons' numbers by their groups.
    rf"\d{{3}}-\d\d-\d{{4}}{_END}",
    rf"\d\d{_GAP}\d{{3}}{_GAP}\d{{3}}{_GAP}\d{{3}}{_END}",
    rf"\d{{3}}\.\d{{3}}\.\d{{3}}-\d\d{_END}",
    rf"[12]{_GAP}\d\d{_GAP}\d\d{_GAP}\d",
    r"[2-9]\d{3} \d{4} \d{4}(?! ?\d)",
    rf"\d{{6}}(?:[-/]\d{{4}}{_END}|-\d{{7}}{_END}|-\d\d-\d{{4}}{_END}|{_GAP}\d{{4}}{_GAP}\d{{3}}{_END}|{_GAP}\d{{8}}{_GAP})",
    rf"\d\d\.\d\d\.\d\d-\d{{3}}\.\d\d{_END}|\d\d-\d{{8}}-\d{_END}",
    rf"756(?:{_ANY_GAP}\d){{10}}",
)
_CANDIDATE = re.compile(
    r"[0-9](?<![0-9][0-9])(?:(?<=[+\uff0b(][0-9])|(?<=[+\uff0b(][( \xa0][0-9])"
    rf"|(?<=(?=(?:{'|'.join(_FORMS)})).))"
)
_RUN = re.compile(rf"\d+(?:[{SPACES}{DASHES}/()·]{{1,4}}\d+)*")
_RUN_BACKWARDS = re.compile(rf"\d*(?:[{SPACES}{DASHES}/()·]{{1,4}}\d+)*")
_GROUP = re.compile(r"\d+")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


class RunPlace(NamedTuple):
    """A run of digits and gaps. `firsts` are where a number can begin in it; None where a word announces one, and
    any group may."""

    start: int
    end: int
    firsts: frozenset[int] | None


class Announcer:
    """Finds words that say that a number follows, in one pass over a text."""

    def __init__(self, words: Sequence[str]) -> None:
        """`words` are regular expressions without look-around, letter case apart."""
        import re2

        options = re2.Options()
        options.case_sensitive = False
        options.log_errors = False
        self._pattern: Any = re2.compile("|".join(f"(?:{_of_any_script(word)})" for word in words), options)

    def places(self, text: str, since: int) -> Iterator[int]:
        """Where such words end."""
        for match in self._pattern.finditer(text, since):
            yield match.end()


def _of_any_script(word: str) -> str:
    """RE2 knows edges of ASCII words alone: next to other letters there is none to ask for."""
    return word.replace("\\b", "") if _NOT_ASCII.search(word) else word


def run_places(text: str, start: int, announcer: Announcer) -> Iterator[RunPlace]:
    """The runs that may have a number in them, in order: those from a little before `start` on."""
    since = max(0, start - CONTEXT)
    found: dict[int, bool] = {match.start(): False for match in _CANDIDATE.finditer(text, since)}
    done = 0
    for end in announcer.places(text, max(0, since - CONTEXT)):
        for group in _GROUP.finditer(text, max(end, done), end + CONTEXT):
            found[group.start()] = True
        done = max(done, end + CONTEXT)
    places = sorted(found)
    at = 0
    while at < len(places):
        place = places[at]
        back = text[max(since, place - CONTEXT) : place][::-1]
        before = _RUN_BACKWARDS.match(back)
        begin = place - (before.end() if before is not None else 0)
        run = _RUN.match(text, _first_digit(text, begin, place))
        assert run is not None  # noqa: S101
        inside: set[int] = set()
        is_announced = False
        while at < len(places) and places[at] < run.end():
            inside.add(places[at])
            is_announced = is_announced or found[places[at]]
            at += 1
        yield RunPlace(run.start(), run.end(), None if is_announced else frozenset(inside))


def _first_digit(text: str, begin: int, place: int) -> int:
    group = _GROUP.search(text, begin, place)
    return place if group is None else group.start()
