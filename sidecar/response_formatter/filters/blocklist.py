"""Words, phrases and patterns that an operator names. Pure.

Patterns run on RE2, which has no look-around and never goes back, each from left to right behind its last match.
"""

import re
import time
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sidecar.config.filters import BlocklistOptions
from sidecar.response_formatter.filters.scanner import Finder, Match, each_start

_MOST_SPACES = 4
_SPACE = re.compile(r"\s+")
_WORD = re.compile(r"\w")
_TOKEN = re.compile(r"\w+")
_STRETCH = 2048
# Scripts without spaces have no edges of words to look for.
_LITERAL = re.compile(r"\w+")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


class PatternFinder:
    """One pattern's matches of at most `most` characters, each searched for behind the one before.

    What goes on for longer is taken in parts. Each match is found by no more of the text than a stream would have.
    """

    def __init__(self, pattern: Any, most: int) -> None:
        self._pattern = pattern
        self._most = most

    def find(self, text: str, start: int) -> Iterator[Match]:
        at = start
        while at < len(text):
            # RE2 reads all that it is given: a stretch is enough. It has the character before, for edges of words.
            since = max(0, at - 1)
            stretch = text[since : at + _STRETCH + self._most + 1]
            until = at + _STRETCH
            for match in self._pattern.finditer(stretch, at - since):
                begins, ends = match.span()
                if since + begins >= until:
                    at = until
                    break
                if ends - begins > self._most:
                    part = self._pattern.match(stretch, begins, begins + self._most)
                    if part is not None:
                        yield Match(since + begins, since + part.end(), "pattern")
                    # What follows is looked for from here: this match took more of the text than it may.
                    at = since + (begins + 1 if part is None else part.end())
                    break
                yield Match(since + begins, since + ends, "pattern")
                at = since + ends
            else:
                at = max(at, until)


class BlocklistDetector:
    """Findings of kind `word` and `pattern`."""

    def __init__(self, options: BlocklistOptions) -> None:
        forms = sorted({form for word in options.words for form in _forms(word)}, key=len, reverse=True)
        self._by_first = _by_first_word(form for form in forms if options.whole_words and _has_edge(form[0]))
        inside = [form for form in forms if not options.whole_words or not _has_edge(form[0])]
        self._inside = _any_of(inside, whole=options.whole_words) if inside else None
        most = options.max_match_chars
        self._finders = tuple(PatternFinder(_compiled(pattern), most).find for pattern in options.patterns)
        longest = max((_longest(word) for word in options.words), default=0)
        self.window = max(longest, most if self._finders else 0) + 2
        self.context = 1
        self._is_single = not self._finders and not any(_SPACE.search(word.strip()) for word in options.words)

    def find(self, text: str, start: int) -> Sequence[Match]:
        found: list[Match] = []
        if self._by_first:
            for token in _TOKEN.finditer(text, start):
                entries = self._by_first.get(token[0].casefold())
                if entries is not None and (match := entries.match(text, token.start())):
                    found.append(Match(match.start(), match.end(), "word"))
        if self._inside is not None:
            found.extend(Match(m.start(), m.end(), "word") for m in each_start(self._inside, text, start))
        return found

    def settled(self, text: str, start: int) -> int:
        """After white space, where no entry has any."""
        if not self._is_single:
            return 0
        return max(text.rfind(" ", start), text.rfind("\n", start)) + 1

    @property
    def disjoint(self) -> "Sequence[Finder]":
        """What the operator's patterns find, each from left to right, one match behind the other."""
        return self._finders


def measured_us(pattern: str, most: int, *, size: int = 4_096) -> float:
    """Microseconds of processor time that a pattern takes for a character of the dearest of some texts."""
    finder = PatternFinder(_compiled(pattern), most)
    own = "".join(_LITERAL.findall(pattern)) or "a"
    worst = 0.0
    for piece in (own, own[:1], "a", "0", "aA0 ", "word "):
        text = (piece * (size // len(piece) + 1))[:size]
        began = time.process_time()
        for _ in finder.find(text, 0):
            pass
        worst = max(worst, time.process_time() - began)
    return worst / size * 1e6


def _compiled(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    return re2.compile(pattern, options)


def _longest(word: str) -> int:
    return 2 * len(word) + _MOST_SPACES * len(_SPACE.findall(word)) + 2


def _forms(word: str) -> set[str]:
    """A word as it may be written: letter case apart, composed or not."""
    written = " ".join(word.split())
    return {unicodedata.normalize(form, text) for text in (written, written.casefold()) for form in ("NFC", "NFD")}


def _has_edge(char: str) -> bool:
    return bool(_WORD.match(char)) and not _UNSPACED.match(char)


def _by_first_word(forms: Iterable[str]) -> Mapping[str, "re.Pattern[str]"]:
    """What to try where a word stands in the text, however long the list is."""
    grouped: dict[str, list[str]] = {}
    for form in forms:
        first = _TOKEN.match(form)
        grouped.setdefault(first[0].casefold() if first else form, []).append(form)
    return {first: _any_of(entries, whole=True) for first, entries in grouped.items()}


def _any_of(forms: Sequence[str], *, whole: bool) -> "re.Pattern[str]":
    """The longest first: an entry that begins another must not hide it."""
    return re.compile("|".join(_one_word(form, whole=whole) for form in forms), re.IGNORECASE)


def _one_word(form: str, *, whole: bool) -> str:
    body = re.escape(form).replace("ss", "(?:ss|ß)").replace("\\ ", rf"\s{{1,{_MOST_SPACES}}}")
    before = r"(?<!\w)" if whole and _has_edge(form[0]) else ""
    after = r"(?!\w)" if whole and _has_edge(form[-1]) else ""
    return before + body + after
