"""Detectors see what a reader sees: hidden characters, other forms of characters, escapes and markup."""

import sys
import unicodedata

import pytest

from sidecar.config.filters import BlocklistOptions, PiiOptions, SanitiseOptions, SecretsOptions
from sidecar.response_formatter.filters.blocklist import BlocklistDetector
from sidecar.response_formatter.filters.folding import fold, is_mark
from sidecar.response_formatter.filters.pii import PiiDetector
from sidecar.response_formatter.filters.scanner import FilterRule
from sidecar.response_formatter.filters.secrets import SecretDetector
from sidecar.response_formatter.filters.stream import Chain, FilterCounts, OutgoingText
from sidecar.response_formatter.filters.views import View

RULES = (
    FilterRule("pii", "redact", PiiDetector(PiiOptions())),
    FilterRule("secrets", "redact", SecretDetector(SecretsOptions())),
    FilterRule(
        "words", "redact", BlocklistDetector(BlocklistOptions(words=("bluebird",), patterns=("INT-[0-9]+",)))
    ),
)
VALUES = {
    "jane.doe@example.org": "EMAIL",
    "4111 1111 1111 1111": "CARD",
    "DE89 3704 0044 0532 0130 00": "IBAN",
    "123-45-6789": "NATIONAL_ID_US",
    "+49 30 901820": "PHONE",
    "AKIAIOSFODNN7EXAMPLE": "AWS_ACCESS_KEY",
    "ghp_0123456789abcdefghijABCDEFGHIJklmnop": "GITHUB_TOKEN",
    "bluebird": "WORD",
    "INT-4711": "PATTERN",
}
# One of each range that shows nothing, a letter before it where the sanitiser leaves it only there.
UNSEEN = (
    "\ufe0f\ufe00\u180b\u180f\u200b\u200d\u200e\u2060\u2066\ufeff\u00ad\u034f\u061c\U0001bca0\U000e0100\U000e0041"
)


def shown(text: str) -> str:
    """The whole text, and character by character: both give the same."""
    told = []
    for pieces in ([text], text):
        channel = OutgoingText(Chain(SanitiseOptions(), RULES), FilterCounts())
        parts = [part for piece in pieces for part in channel.feed(0, piece)] + list(channel.end())
        told.append("".join(piece for _, piece in parts))
    assert told[0] == told[1]
    return told[0]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("beside", ["", "\u05d0\u05d1 "])
def test_characters_that_show_nothing_hide_nothing(value: str, beside: str) -> None:
    for char in UNSEEN:
        for at in range(1, len(value)):
            text = shown(f"{beside}see {value[:at]}{char}{value[at:]} there")
            assert text == f"{beside}see [{VALUES[value]}] there", (hex(ord(char)), at)


@pytest.mark.parametrize("value", VALUES)
def test_marks_and_other_forms_of_characters_hide_nothing(value: str) -> None:
    wide = "".join(chr(ord(char) + 0xFEE0) if "!" <= char <= "~" else char for char in value)
    assert shown(f"see {wide} there") == f"see [{VALUES[value]}] there"
    for mark in "\u0338\u20e3\u05b4":
        for at in (1, len(value) // 2, len(value) - 1):
            if value[at - 1].isalpha() and VALUES[value] in ("WORD", "PATTERN"):
                continue  # an accent makes another letter of it
            text = shown(f"see {value[:at]}{mark}{value[at:]} there")
            assert text == f"see [{VALUES[value]}] there", (hex(ord(mark)), at)


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize(
    "form", ["**{0}**", "_{0}_", "***{0}***", "~~{0}~~", "`{0}`", "<b>{0}</b>", "<code>{0}</code>", "__{0}__"]
)
def test_markup_around_a_value_hides_nothing(value: str, form: str) -> None:
    before, after = form.split("{0}")
    # An address may begin with what could be markup.
    wholes = [f"see {before}[{VALUES[value]}]{after} there", f"see [{VALUES[value]}]{after} there"]
    assert shown(f"see {form.format(value)} there") in wholes[: 1 + (value[4] == ".")]
    middle = len(value) // 2
    if before[0] != "_" and before[0] != "`":
        inside = shown(f"see {value[:middle]}{form.format(value[middle:])} there")
        assert inside in (f"see [{VALUES[value]}]{after} there", f"see [{VALUES[value]}] there")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("form", ["&#{};", "&#{}", "&#x{:x};", "\\u{:04x}", "\\x{:02x}", "%{:02x}"])
def test_escaped_characters_hide_nothing(value: str, form: str) -> None:
    for at, char in enumerate(value):
        if form == "&#{}" and value[at + 1 : at + 2].isdigit():
            continue  # another character
        text = f"see {value[:at]}{form.format(ord(char))}{value[at + 1 :]} there"
        assert shown(text) == f"see [{VALUES[value]}] there", (at, char)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jane&commat;example&period;org", "[EMAIL]"),
        ("jane\\@example\\.org", "[EMAIL]"),
        ("jane@**example**.org", "[EMAIL]"),
        ("jane\ufe6bexample.org", "[EMAIL]"),
        ("&lt;jane@example.org&gt;", "&lt;[EMAIL]&gt;"),
        ("paid with 4111 1111 1111 1111¹ once", "paid with [CARD]¹ once"),
        ("4\ufe0f\u20e31\ufe0f\u20e31\ufe0f\u20e31\ufe0f\u20e3 1111 1111 1111", "[CARD]"),
        ("\\n4111 1111 1111 1111\\n", "\\n[CARD]\\n"),
        ("4111 **** **** 1111, __init__, 2**32 &amp; 100%25 of a\\b", None),
        ("snake_case, *list, <b>bold</b>, C:\\new\\table, x &lt; y, é and e\u0301, नमस्ते, שָׁלוֹם", None),
    ],
)
def test_what_is_found_is_what_a_reader_sees(text: str, expected: str | None) -> None:
    assert shown(text) == (text if expected is None else expected)


def test_places_lead_back_to_the_text_as_it_came() -> None:
    view = View(is_rendered=True)
    text = "a&#64;b **c** \ufb01 e\u0301 d\ufe0fe"
    view.feed(text, is_end=True)
    assert view.text == "a@b c fi é de"
    came = [text[view.raw_start(place) : view.raw_end(place + 1)] for place in range(len(view.text))]
    assert came == ["a", "&#64;", "b", " ", "c", " ", "\ufb01", "\ufb01", " ", "e\u0301", " ", "d", "e"]


def test_every_character_of_formatting_shows_nothing_but_those_that_do() -> None:
    seen = {
        code
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)) == "Cf" and fold(chr(code)) != ""
    }
    assert seen <= {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
    assert is_mark("\u0301")
    assert not is_mark("\ufe0f")
