"""How logs, terminals and messages quote what strangers chose: subjects, headers, names, keys, answers."""

import re

LONGEST_SHOWN = 80

# What steers a terminal or changes what is read there: controls but tab and line feed, half surrogate pairs, odd
# breaks of lines, what turns the direction of a text or is not seen. Joiners stay, for emoji and their scripts.
_STEERS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)
# The same and joiners, without what JSON escapes already.
_HIDDEN_IN_JSON = re.compile(
    "[\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)


def shown(text: object, most: int = LONGEST_SHOWN) -> str:
    """`text` in printable ASCII on one line, its first `most` characters; what was cut is counted.

    A log line whose words a stranger chooses can neither break out of its line, nor steer a terminal, nor fill the
    disk.
    """
    whole = text if isinstance(text, str) else str(text)
    cut = whole[:most]
    plain = cut if cut.isascii() and cut.isprintable() else cut.encode("unicode_escape").decode("ascii")
    return plain if len(whole) <= most else f"{plain}… ({len(whole)} characters)"


def on_one_line(text: str, most: int) -> str:
    """The same for the product's own words, which may quote others' and are not all ASCII."""
    cut = text[:most]
    plain = cut if cut.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in cut)
    return plain if len(text) <= most else f"{plain}… ({len(text)} characters)"


def visible(text: str) -> str:
    """`text` as it may go to a terminal: what would steer it stands there as a mark, `<U+001B>`."""
    if text.isascii() and text.isprintable():
        return text
    return _STEERS.sub(lambda found: f"<U+{ord(found[0]):04X}>", text.replace("\r\n", "\n"))


def visible_json(text: str) -> str:
    """JSON of the same value, in which nothing steers a terminal: such characters are escaped."""
    return text if text.isascii() and "\x7f" not in text else _HIDDEN_IN_JSON.sub(_escaped, text)


def _escaped(found: "re.Match[str]") -> str:
    code = ord(found[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"
