"""Made the corpus from the templates in `source/`: kept to show how. It does not write over data that is there.

    python -m tests.corpus.v2.build

A template's slots are `{{maker}}` (values.py, keys.py), `{{maker|way of writing}}`, `{{type=value}}` by hand and
`{{~noise}}`, which is nothing to hide. `⏎` stands for a line feed, `⇥` for a tab. Whole templates go to one half
or the other, by the hash of their text, so that the frozen half is of forms that the open half does not have.
"""

import hashlib
import html
import json
import random
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote

from stdnum import iban, luhn

from tests.corpus.v2.corpus import HALVES, HERE
from tests.corpus.v2.keys import NOISE, SECRETS
from tests.corpus.v2.values import PERSONAL
from tests.corpus.v2.writing import WRITERS

MAKERS = PERSONAL | SECRETS
ANY = ("email", "phone", "card_grouped", "iban_grouped", "nid", "key", "card", "iban", "phone_e164", "jwt")
SLOT = re.compile(r"\{\{(?P<noise>~)?(?P<name>\w+)(?:\|(?P<way>\w+)|=(?P<value>.*?))?\}\}(?!\})")
TIMES = {"wrappers": 8, "escapes": 4, "personal": 3, "secrets": 3, "languages": 2, "negatives": 12}
Pieces = list[str | list[str]]


def checked(kind: str, value: str) -> None:
    """What has a check digit must have the right one, however it is written."""
    plain = unicodedata.normalize("NFKC", unquote(html.unescape(value)))
    plain = "".join(str(unicodedata.digit(c, c)) for c in plain if c.isalnum())
    if kind == "card" and "<" not in value:
        luhn.validate(plain)
    if kind == "iban" and "<" not in value:
        iban.validate(plain.upper(), check_country=False)


def made(slot: re.Match[str], rng: random.Random, turn: int) -> str | list[str]:
    name = slot["name"]
    if slot["noise"]:
        return NOISE[name](rng)
    if slot["value"] is not None:
        checked(name, slot["value"])
        kind, value = name, slot["value"]
    else:
        if name == "any":
            name = ANY[turn % len(ANY)]
        kind, maker = MAKERS[name]
        value = maker(rng)
        if slot["way"]:
            value = WRITERS[slot["way"]](rng, value)
    half = len(value) // 2
    return [kind, value[:half], value[half:]]


def filled(template: str, rng: random.Random, turn: int) -> Pieces:
    pieces: Pieces = []
    at = 0
    for number, slot in enumerate(SLOT.finditer(template)):
        for piece in (template[at : slot.start()], made(slot, rng, turn + number)):
            if isinstance(piece, str) and pieces and isinstance(pieces[-1], str):
                pieces[-1] += piece
            elif piece:
                pieces.append(piece)
        at = slot.end()
    return [*pieces, template[at:]] if template[at:] else pieces


def lines(name: str) -> Iterator[tuple[int, str]]:
    text = (HERE / "source" / f"{name}.txt").read_text(encoding="utf-8")
    for number, line in enumerate(text.split("\n"), 1):
        if line and number > 1:  # the first says what the file is
            yield number, line.replace("⏎", "\n").replace("⇥", "\t")


def examples(name: str, seen: set[str]) -> Iterator[tuple[str, str, Pieces]]:
    for number, template in lines(name):
        digest = hashlib.sha256(template.encode()).hexdigest()
        half = HALVES[int(digest, 16) % 2]
        times = 1 if name.startswith("hand") else TIMES[name]
        for turn in range(times):
            rng = random.Random(f"{digest} {turn}")
            pieces = filled(template, rng, int(digest[:6], 16) + turn)
            key = json.dumps(pieces)
            if key not in seen:
                seen.add(key)
                kind = f"{name}:{number}"
                yield half, kind, pieces


def write(target: str, names: tuple[str, ...]) -> None:
    seen: set[str] = set()
    rows: dict[str, list[str]] = {half: [] for half in HALVES}
    for name in names:
        for half, kind, pieces in examples(name, seen):
            row = {"i": f"{half[0]}{target[0]}{len(rows[half])}", "k": kind, "t": pieces}
            rows[half].append(json.dumps(row, ensure_ascii=True, separators=(",", ":")))
    for half in HALVES:
        path = HERE / half / f"{target}.jsonl"
        path.parent.mkdir(exist_ok=True)
        with path.open("x", encoding="utf-8") as file:  # never over what is there
            file.write("\n".join(rows[half]) + "\n")
        print(path.relative_to(HERE), len(rows[half]))


if __name__ == "__main__":
    write("positives", ("wrappers", "escapes", "personal", "secrets", "languages", "hand_positives"))
    write("negatives", ("negatives", "hand_negatives"))
