"""Text that is safe to show: half characters, control characters, and characters that nobody sees. Pure.

What stays, and why, is in docs/filters.md. A text gives the same in whatever pieces it comes.
"""

import re
from collections.abc import MutableMapping
from typing import Literal

from sidecar.config.filters import SanitiseOptions, Treatment

Kind = Literal["surrogate", "control", "bidi", "invisible"]

_CONTROLS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_BIDI = "\u202a-\u202e\u2066-\u2069"
_MARKS = "\u200e\u200f\u061c"
_JOINERS = "\u200c\u200d"
_VARIATIONS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_INVISIBLE = (
    "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff\U000e01f0-\U000e0fff"
)
_FLAG = "\U0001f3f4"
_FLAG_TAGS = "[\U000e0030-\U000e0039\U000e0061-\U000e007a]"

# All other characters, the likeliest first: three times as fast to look for as the suspects themselves.
_NOT_PLAIN = re.compile(
    "[^ -~\n\t\r\xa0-\xac\xae-\u034e\u0350-\u061b\u061d-\u115e\u1161-\u17b3\u17b6-\u180a\u1810-\u200a\u2010-\u2029"
    "\u202f-\u205f\u2070-\u3163\u3165-\ud7ff\ue000-\ufdff\ufe10-\ufefe\uff00-\uff9f\uffa1-\uffef"
    "\U00010000-\U0001bc9f\U0001bca4-\U0001d172\U0001d17b-\U000dffff]"
)
_ASCII_CONTROLS = dict.fromkeys([*range(9), 11, 12, *range(14, 32), 127])
_TOKEN = re.compile(
    f"(?P<flag>{_FLAG}{_FLAG_TAGS}{{3,6}}\U000e007f)"
    "|(?P<pair>[\ud800-\udbff][\udc00-\udfff])"
    "|(?P<surrogate>[\ud800-\udfff])"
    f"|(?P<control>[{_CONTROLS}])"
    f"|(?P<bidi>[{_BIDI}])"
    f"|(?P<invisible>[{_MARKS}{_JOINERS}{_VARIATIONS}{_INVISIBLE}])"
)
# What more text can change: half a pair, a joiner or mark whose neighbour has not come, a flag's tags.
_OPEN_END = re.compile(f"(?:[\ud800-\udbff]|[{_MARKS}{_JOINERS}]|{_FLAG}(?:{_FLAG_TAGS}{{0,6}}))\\Z")
_LONGEST_OPEN = 7
_BEFORE = 8

_PICTURES = "\u00a9\u00ae\u203c-\u3299\U0001f000-\U0001faff"
_PICTURE = re.compile(f"[{_PICTURES}]")
_PICTURE_OR_MODIFIER = re.compile(f"[{_PICTURES}\ufe0f\u20e3]")
# Arabic to N'Ko, India's scripts to Sinhala, Tibetan, Myanmar, Khmer, Mongolian, and those of the second plane.
_JOINING = re.compile(
    "[\u0600-\u07ff\u0840-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\u1a20-\u1aaf\ua840-\ua87f\ufb50-\ufdff"
    "\ufe70-\ufefc\U00010a00-\U00010eff\U00011000-\U000118ff]"
)
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff]")
# Scripts that write no spaces: a break that takes no width is all they have.
_UNSPACED = re.compile("[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u1950-\u19df\uaa60-\uaa7f]")
# What chooses a form of a letter of Mongolian, and what overlaps letters of Duployan shorthand.
_FORMED = re.compile("[\u1807\u180a\u1820-\u18aa][\u180b-\u180f]|[\U0001bc00-\U0001bc9f][\U0001bca0-\U0001bca3]")
_IDEOGRAPH = re.compile("[\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


class Sanitiser:
    """One text as it comes. `counts` is told what was found, by kind, each time that it was."""

    def __init__(self, options: SanitiseOptions, counts: MutableMapping[str, int]) -> None:
        self._treatments: dict[str, Treatment] = {
            "surrogate": "keep",
            "control": options.controls,
            "bidi": options.bidi,
            "invisible": options.invisible,
        }
        self._counts = counts
        self._before = ""
        self._held = ""

    def feed(self, text: str) -> str:
        """What of the text so far can be said now and had not been."""
        if not self._held and text.isascii() and len(text.translate(_ASCII_CONTROLS)) == len(text):
            self._before = (self._before + text)[-_BEFORE:] if len(text) < _BEFORE else text[-_BEFORE:]
            return text
        return self._feed(text)

    def end(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return self._clean(held, after="") if held else ""

    def _feed(self, text: str) -> str:
        text = self._held + text
        self._held = ""
        if _NOT_PLAIN.search(text) is None and text[-1:] != _FLAG:
            self._before = (self._before + text[-_BEFORE:])[-_BEFORE:]
            return text
        end = _OPEN_END.search(text, max(0, len(text) - _LONGEST_OPEN))
        if end is not None:
            self._held = text[end.start() :]
            text = text[: end.start()]
        return self._clean(text, after=self._held[:1])

    def _clean(self, text: str, *, after: str) -> str:
        before = self._before
        whole = before + text + after
        start, stop = len(before), len(before) + len(text)
        pieces: list[str] = []
        at = start
        for token in _TOKEN.finditer(whole, start, stop):
            shown = self._shown(whole, token)
            if shown is not None:
                pieces += (whole[at : token.start()], shown)
                at = token.end()
        pieces.append(whole[at:stop])
        self._before = whole[max(0, stop - _BEFORE) : stop]
        return "".join(pieces)

    def _shown(self, whole: str, token: "re.Match[str]") -> str | None:
        """What stands in a token's place; None for the token itself."""
        kind, value = str(token.lastgroup), token[0]
        if kind == "flag":
            return None
        if kind == "pair":
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        if kind == "invisible" and _is_needed(whole, token.start()):
            return None
        if kind != "surrogate" and self._treatments[kind] == "keep":
            return None
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if kind == "surrogate":
            return "\ufffd"
        return f"<U+{ord(value):04X}>" if self._treatments[kind] == "mark" else ""


def is_clean(text: str) -> bool:
    """Whether nothing in a text is any sanitiser's matter, as far as is known at once: it is printable ASCII."""
    return text.isascii() and len(text.translate(_ASCII_CONTROLS)) == len(text)


def sanitised(text: str, options: SanitiseOptions, counts: MutableMapping[str, int]) -> str:
    """A whole text."""
    sanitiser = Sanitiser(options, counts)
    return sanitiser.feed(text) + sanitiser.end()


def _is_needed(text: str, at: int) -> bool:
    """Whether an invisible character does in its place what it is for."""
    char, before, after = text[at], text[at - 1 : at] if at else "", text[at + 1 : at + 2]
    if char == "\u200d" and _PICTURE_OR_MODIFIER.match(before) and _PICTURE.match(after):
        return True
    if char in _JOINERS:
        return bool(_JOINING.match(before))
    if char in _MARKS:
        near = text[max(0, at - _BEFORE) : at] + after
        return bool(_RIGHT_TO_LEFT.search(near))
    if char == "\u200b":
        return bool(_UNSPACED.match(before))
    if "\ufe00" <= char <= "\ufe0f":
        return bool(before) and not before.isspace() and not "\ufe00" <= before <= "\ufe0f"
    if "\u180b" <= char <= "\u180f" or "\U0001bca0" <= char <= "\U0001bca3":
        return _FORMED.match(before + char) is not None
    if "\U000e0100" <= char <= "\U000e01ef":
        return bool(_IDEOGRAPH.match(before))
    return False
