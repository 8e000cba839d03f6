"""Ways to write a value so that a reader sees the same: what stands after `|` in a template's slot."""

import random
from collections.abc import Callable

Writer = Callable[[random.Random, str], str]
INVISIBLE = "\u200b\u200c\u200d\u2060\u00ad\ufeff\u200e\u2063"
VARIATION = "\ufe00\ufe0e\ufe0f"
RARE = "\u180b\u180c\u180d\u180f\U0001bca0\U0001bca3\u034f\u3164\u17b4\U000e0041\U000e0100"


def put(rng: random.Random, text: str, characters: str, count: int = 1) -> str:
    """Puts characters that show nothing inside the text."""
    for _ in range(count):
        at = rng.randrange(1, len(text))
        text = text[:at] + rng.choice(characters) + text[at:]
    return text


def wide(_: random.Random, text: str) -> str:
    return "".join("\u3000" if c == " " else chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


def styled(_: random.Random, text: str) -> str:
    """Letters and digits in mathematical bold."""

    def one(c: str) -> str:
        if "0" <= c <= "9":
            return chr(0x1D7CE + ord(c) - ord("0"))
        if "A" <= c <= "Z":
            return chr(0x1D400 + ord(c) - ord("A"))
        return chr(0x1D41A + ord(c) - ord("a")) if "a" <= c <= "z" else c

    return "".join(map(one, text))


def sign(text: str) -> str:
    return "@" if "@" in text else "+"


def parted(text: str) -> tuple[str, str]:
    """The text in two, after its first sign or in the middle."""
    at = next((i + 1 for i, c in enumerate(text) if i and not c.isalnum()), len(text) // 2)
    return text[:at], text[at:]


def emphasis(rng: random.Random, text: str) -> str:
    mark = rng.choice(("**", "*", "**"))
    first, rest = parted(text)
    return f"{first}{mark}{rest}{mark}"


def inline(rng: random.Random, text: str) -> str:
    tag = rng.choice(("b", "i", "em", "strong", "span"))
    first, rest = parted(text)
    return f"{first}<{tag}>{rest}</{tag}>"


def replaced(old: str, new: str) -> Writer:
    return lambda _, text: text.replace(old, new)


def spaces(new: str) -> Writer:
    return lambda _, text: "".join(new if c.isspace() else c for c in text)


def numerals(zero: int) -> Writer:
    return lambda _, text: "".join(chr(zero + int(c)) if c in "0123456789" else c for c in text)


WRITERS: dict[str, Writer] = {
    "percent": lambda _, text: text.replace("@", "%40").replace("+", "%2B"),
    "percent20": spaces("%20"),
    "nbspentity": spaces("&nbsp;"),
    "entity": lambda _, text: text.replace(sign(text), f"&#{ord(sign(text))};"),
    "entityhex": replaced("@", "&#x40;"),
    "entityname": replaced("@", "&commat;"),
    "backslash": replaced("@", "\\@"),
    "unicode": replaced("@", "\\u0040"),
    "wide": wide,
    "wideat": replaced("@", "\uff20"),
    "smallat": replaced("@", "\ufe6b"),
    "combining": replaced("@", "\u0301@"),
    "styled": styled,
    "arabic": numerals(0x660),
    "devanagari": numerals(0x966),
    "invisible": lambda rng, text: put(rng, text, INVISIBLE, rng.randrange(1, 4)),
    "variation": lambda rng, text: put(rng, text, VARIATION),
    "mongolian": lambda rng, text: put(rng, text, RARE, rng.randrange(1, 3)),
    "emphasis": emphasis,
    "inline": inline,
    "jsonlines": replaced("\n", "\\n"),
    "pctpass": lambda _, text: text[:4] + "%40" + text[4:],
}
