"""What a character looks like to a reader: which show nothing, and which are other forms of another one.

Data of Unicode. What is not seen is written out here; compatibility forms, marks and digits are those of the
interpreter's `unicodedata` (`unicodedata.unidata_version` says which). Pure.
"""

import unicodedata
from functools import lru_cache
from html.entities import html5
from typing import Final

# Default_Ignorable_Code_Point of DerivedCoreProperties.txt, Unicode 16.0, unassigned ones included: they stay so.
_IGNORABLE: Final = (
    (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
    (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF),
    (0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip
# Format characters (Cf) that do show something: signs over or before numbers of Arabic and Syriac script.
_VISIBLE_FORMATS: Final = frozenset(
    (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD),
)
# Marks that go with letters of any script; those of one script belong to its words.
_COMMON_MARKS: Final = (
    (0x300, 0x36F), (0x483, 0x489), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F)
)  # fmt: skip
# Signs whose compatibility form is letters that nobody would read as such.
_UNCHANGED: Final = frozenset("\u2120\u2121\u2122\u213b\u33c7\u33d8")
_HYPHENS: Final = frozenset("\u2010\u2011\u2012\u2212\ufe63\uff0d")
_BLANKS: Final = frozenset("\u2800\u1680")
_SURROGATES: Final = (0xD800, 0xDFFF)
NUMERAL: Final = "\x00"
"""Before what `fold` gives for a raised or lowered digit, which after a digit is a note and no part of it."""


def _is_hidden(code: int) -> bool:
    if any(first <= code <= last for first, last in _IGNORABLE):
        return True
    return unicodedata.category(chr(code)) == "Cf" and code not in _VISIBLE_FORMATS


def is_common_mark(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in _COMMON_MARKS)


@lru_cache(maxsize=4096)
def fold(char: str) -> str:
    """What a reader takes a character for; empty where nothing is seen."""
    code = ord(char)
    if _is_hidden(code):
        return ""
    if char in _HYPHENS:
        return "-"
    if char in _BLANKS:
        return " "
    category = unicodedata.category(char)
    if category == "Nd":
        return str(int(char))
    plain = unicodedata.normalize("NFKC", char)
    if plain == char or char in _UNCHANGED:
        return char
    if plain.isdecimal() and unicodedata.decomposition(char).startswith(("<super>", "<sub>")):
        return NUMERAL + plain
    # Accents that stand alone would become a space and a mark.
    return char if len(plain) > 1 and plain[0] == " " else plain


def changed_in(text: str) -> str:
    """The characters of a text that are not what they look like, or combine with others; each once, in order."""
    return "".join(sorted(char for char in set(text) if char > "\x7f" and (fold(char) != char or is_mark(char))))


@lru_cache(maxsize=4096)
def is_mark(char: str) -> bool:
    """Whether it combines with the character before it. What is hidden is none."""
    return unicodedata.category(char) in ("Mn", "Me") and not _is_hidden(ord(char))


def entity(name: str) -> str | None:
    """The character of a named entity of HTML, `amp;` without its sign; None for no such name."""
    return html5.get(name)
