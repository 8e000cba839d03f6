"""A text as a reader sees it, with a map back to the text as it came. Pure.

Detectors look at what is seen: characters that show nothing are gone, compatibility forms are what they stand for,
and in the rendered view entities, escapes and markup are read as well. A view is made from left to right with
bounded look-ahead, so it is the same in whatever pieces a text comes.
"""

import re
import unicodedata
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import NamedTuple

from sidecar.response_formatter.filters.folding import NUMERAL, changed_in, entity, fold, is_common_mark, is_mark

_MOST_MARKS = 16
_TAGS = (
    "abbr|bdi|bdo|big|cite|code|del|dfn|em|font|ins|kbd|mark|samp|small|span|strike|strong|sub|sup|tt|var|wbr"
    "|[abiqsu]"
)
_MARKUP = (
    r"(?P<entity>&(?:\#(?:[xX][0-9a-fA-F]{1,8}|[0-9]{1,8});?|[A-Za-z][A-Za-z0-9]{1,31};))"
    r"|(?P<percent>(?:%[cCdD][0-9a-fA-F]|%[eE][0-9a-fA-F]%[89abAB][0-9a-fA-F]"
    r"|%[fF][0-4](?:%[89abAB][0-9a-fA-F]){2})%[89abAB][0-9a-fA-F]|%[2-7][0-9a-fA-F])"
    r"|(?P<escape>\\(?:u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[nrt]|[!-/:-@\[-`{-~]))"
    rf"|(?P<tag><(?:/?(?i:{_TAGS})(?:[\s/][^<>]{{0,80}})?|!--[^<>]{{0,80}}--)>)"
    r"|(?P<emphasis>\*+|_+|~+|`+)"
)
# Where one of the above may begin: one look for all of them.
_SUSPECT = re.compile(r"[&%\\<*_~`]")
# What more text could make into one of them, or tell what it is.
_OPEN = re.compile(
    r"(?:&(?:\#[xX]?[0-9a-fA-F]{0,8}|[A-Za-z0-9]{0,32})"
    r"|%[c-fC-F][0-9a-fA-F](?:%[89abAB][0-9a-fA-F]){0,2}(?:%[89abAB]?)?|%[0-9a-fA-F]?"
    r"|\\(?:u[0-9a-fA-F]{0,3}|x[0-9a-fA-F]?)?"
    rf"|<(?:/?[A-Za-z]{{0,6}}|/?(?i:{_TAGS})[\s/][^<>]{{0,80}}|!(?:-|--[^<>]{{0,82}})?)"
    r"|\*{1,3}|_{1,3}|~{1,3}|`{1,3})\Z"
)
_LONGEST_OPEN = 96
_ASCII = "[!-~]"
_UNTOLD = ("&", "%", "\\")
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
# Longer runs are rules, fences, and values that somebody masked.
_LONGEST_EMPHASIS = {"*": 3, "_": 3, "~": 2, "`": 2}


class Token(NamedTuple):
    """A stretch that is seen otherwise than it came: places and sizes in what is seen, and in what came."""

    seen: int
    seen_size: int
    raw: int
    raw_size: int


@lru_cache(maxsize=256)
def _pattern(changed: str, *, is_rendered: bool, is_foreign: bool) -> "re.Pattern[str] | None":
    """What has to be looked at where these characters are in a text; None for nothing."""
    common = _class_of([char for char in changed if is_mark(char) and is_common_mark(char)])
    others = _class_of([char for char in changed if is_mark(char) and not is_common_mark(char)])
    folded = _class_of([char for char in changed if not is_mark(char)])
    parts = [_MARKUP] if is_rendered else []
    if common:
        parts.append(rf"(?P<cluster>(?:[^\W\d_]|[<>=])?{common}{{1,{_MOST_MARKS}}})")
    if others and is_foreign:
        parts.append(f"(?P<foreign>{others}+)")
    if folded:
        parts.append(f"(?P<char>{folded})")
    return re.compile("|".join(parts)) if parts else None


def _class_of(chars: "list[str]") -> str:
    return f"[{''.join(re.escape(char) for char in chars)}]" if chars else ""


class View:
    """One text as it comes, and what is seen of it so far.

    `text` is a stretch of what is seen; `base` is where in all that is seen it begins; `known` is how much of the
    text as it came is decided. `raw_start` and `raw_end` lead back.
    """

    def __init__(self, *, is_rendered: bool) -> None:
        """`is_rendered`: entities, escapes and markup are read as they would be shown."""
        self._is_rendered = is_rendered
        self._held = ""
        self._last = ""
        self._after_numeral = -1
        self.text = ""
        self.base = 0
        self.known = 0
        self._tokens = [Token(0, 0, 0, 0)]
        self._starts = [0]
        self._raws = [0]

    def feed(self, text: str, *, is_end: bool = False) -> None:
        if self._held:
            text = self._held + text
        at = len(text) if is_end else self._open_at(text)
        if not at:
            self._held = text
            return
        changed = "" if text.isascii() else changed_in(text)
        is_marked = self._is_rendered and _SUSPECT.search(text, 0, at) is not None
        pattern = None
        if changed or is_marked:
            pattern = _pattern(changed, is_rendered=is_marked, is_foreign=_is_foreign(changed, self._last + text))
        if pattern is None:
            self.text += text[:at]
            self._last = text[at - 1]
        else:
            at = self._read(text, at, pattern)
        self._held = text[at:]
        self.known += at

    def _open_at(self, text: str) -> int:
        """From where on more text could change what is seen."""
        at = len(text)
        if not at:
            return 0
        if self._is_rendered:
            since = max(0, at - _LONGEST_OPEN)
            if _SUSPECT.search(text, since) is not None and (found := _OPEN.search(text, since)) is not None:
                return found.start()
        last = text[-1]
        if last.isascii():
            # A letter may get an accent yet.
            return at - (last.isalpha() or last in "<>=")
        least = max(0, at - _LONGEST_OPEN)
        while at > least and is_mark(text[at - 1]) and is_common_mark(text[at - 1]):
            at -= 1
        return at - 1 if at and text[at - 1].isalnum() and not text[at - 1].isdecimal() else at

    def _read(self, text: str, until: int, pattern: "re.Pattern[str]") -> int:
        """Up to a place, or to the end of the token that goes over it, which is told."""
        pieces: list[str] = []
        at, size = 0, self.base + len(self.text)
        for match in pattern.finditer(text):
            start, end = match.span()
            if start >= until:
                break
            until = max(until, end)
            last = text[start - 1] if start > at else self._last
            seen = self._seen(match, last, text[end : end + 1], size + start - at)
            if seen is None:
                continue
            pieces += (text[at:start], seen)
            size += start - at
            self._add(Token(size, len(seen), self.known + start, end - start))
            size += len(seen)
            self._last, at = seen[-1:] or last, end
        pieces.append(text[at:until])
        if until > at:
            self._last = text[until - 1]
        self.text += "".join(pieces)
        return until

    def _seen(self, match: "re.Match[str]", last: str, following: str, place: int) -> str | None:
        """What is seen of a token at a place between two characters; None for the token itself."""
        kind, value = match.lastgroup, match[0]
        if kind == "char":
            return self._folded(value, last, place)
        if kind == "cluster":
            return _composed(value) if value[0].isalpha() else self._folded(value[0], last, place)
        if kind == "foreign":
            return "" if "!" <= last <= "~" else None
        if kind == "tag":
            return ""
        if kind == "emphasis":
            return "" if _is_emphasis(value, last, following) else None
        chars = _decoded(str(kind), value)
        if chars is None:
            return None
        return "".join([self._folded(char, last, place) for char in chars])

    def _folded(self, char: str, last: str, place: int) -> str:
        seen = "" if is_mark(char) else fold(char)
        if seen[:1] != NUMERAL:
            return seen
        # What is raised after a number is a note; a number that is all raised is one.
        if last.isdecimal() and self._after_numeral != place:
            return ""
        self._after_numeral = place + 1
        return seen[1:]

    def _add(self, token: Token) -> None:
        self._tokens.append(token)
        self._starts.append(token.seen)
        self._raws.append(token.raw)

    def raw_start(self, place: int) -> int:
        """Where in the text as it came that begins what is seen at a place, counted from the very beginning."""
        token = self._tokens[bisect_right(self._starts, place) - 1]
        over = place - token.seen - token.seen_size
        return token.raw if over < 0 else token.raw + token.raw_size + over

    def raw_end(self, place: int) -> int:
        """Where in the text as it came that ends what is seen up to a place."""
        token = self._tokens[max(0, bisect_left(self._starts, place) - 1)]
        return token.raw + token.raw_size + max(0, place - token.seen - token.seen_size)

    def seen_from(self, raw: int) -> int:
        """The place from where on is seen what comes at or after one in the text as it came."""
        token = self._tokens[max(0, bisect_right(self._raws, raw) - 1)]
        if raw <= token.raw:
            return token.seen
        return token.seen + token.seen_size + max(0, raw - token.raw - token.raw_size)

    def forget(self, place: int) -> None:
        """Nobody asks any more for what is seen before a place."""
        spare = place - self.base
        if spare <= 0:
            return
        self.text = self.text[spare:]
        self.base = place
        # The last token before it stays: places are counted from there.
        old = bisect_right(self._starts, place) - 1
        while old > 0 and self._tokens[old].seen + self._tokens[old].seen_size > place:
            old -= 1
        if old > 0:
            del self._tokens[:old], self._starts[:old], self._raws[:old]


def _is_foreign(changed: str, text: str) -> bool:
    """Whether marks of one script stand on characters that are of none of its."""
    others = _class_of([char for char in changed if is_mark(char) and not is_common_mark(char)])
    if not others:
        return False
    folded = _class_of([char for char in changed if not is_mark(char) or is_common_mark(char)])
    return re.search(f"(?:{_ASCII}{'|' if folded else ''}{folded}){others}", text) is not None


def _composed(cluster: str) -> str:
    """A letter with its marks as one character; marks that make none with it are gone."""
    whole = unicodedata.normalize("NFC", fold(cluster[0]) + cluster[1:])
    return "".join([char for char in whole if not is_mark(char)])


def _is_emphasis(run: str, last: str, following: str) -> bool:
    sign = run[0]
    if len(run) > _LONGEST_EMPHASIS[sign] or last == sign or (sign == "~" and run != "~~"):
        return False
    opens = bool(following) and not following.isspace()
    closes = bool(last) and not last.isspace()
    if run == "***" and last.isalnum() and following == "@":
        # Somebody masked the rest of a name: `j***@example.org`.
        return False
    if sign == "_":
        # What is escaped, or not seen, may have letters in it or behind it.
        is_last = not following.isalnum() and following not in _UNTOLD and (not following or bool(fold(following)))
        return (opens and not last.isalnum()) or (closes and is_last)
    return opens or closes


def _decoded(kind: str, value: str) -> str | None:
    """What an entity or escape stands for; None where it stands for nothing that can be shown."""
    if kind == "percent":
        try:
            chars = bytes.fromhex(value.replace("%", "")).decode()
        except UnicodeDecodeError:
            return None
    elif kind == "escape":
        chars = _ESCAPED.get(value[1], value[1]) if len(value) == 2 else chr(int(value[2:], 16))
    elif value[1] != "#":
        return entity(value[1:])
    else:
        digits = value[2:].rstrip(";")
        code = int(digits[1:], 16) if digits[0] in "xX" else int(digits)
        if code > 0x10FFFF:
            return None
        chars = chr(code)
    is_shown = chars in "\t\n\r" or (chars.isprintable() if chars.isascii() else not _is_half(chars))
    return chars if is_shown else None


def _is_half(chars: str) -> bool:
    return "\ud800" <= chars[0] <= "\udfff"
