"""The corpus that filters are measured on: texts with what is to be found in them, and texts that only look alike.

Made by a seeded generator, the same every time. All values are made up: they have the form and checksum of
real ones.
 `python -m tests.corpus.generate` prints it as JSON lines.
"""

import json
import random
import string
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from tests.corpus import sentences
from tests.corpus.values import ID_MAKERS, card, iban, spaced

SEED = 20_261_122


class Label(NamedTuple):
    kind: str
    value: str


class Case(NamedTuple):
    """A text, which filter it is for, and what that should find. No labels: nothing."""

    name: str
    filter: str
    text: str
    labels: tuple[Label, ...] = ()


@lru_cache(maxsize=1)
def corpus() -> tuple[Case, ...]:
    chance = random.Random(SEED)
    made = [*personal(chance), *secret(chance), *plain(chance)]
    return tuple(case._replace(name=f"{case.name}-{at}") for at, case in enumerate(made))


def personal(chance: random.Random) -> Iterator[Case]:
    for maker, kind, templates, count in (
        (email, "email", sentences.EMAIL, 45),
        (phone, "phone", sentences.PHONE, 50),
        (bare_phone, "phone", sentences.PHONE_NAMED, 25),
        (lambda c: spaced(c, iban(c), 4), "iban", sentences.IBAN, 35),
        (lambda c: spaced(c, card(c), 4), "card", sentences.CARD, 35),
    ):
        for at in range(count):
            yield one(chance, kind, "pii", templates[at % len(templates)], maker)
    for country, (make, names) in ID_MAKERS.items():
        for _ in range(5):
            template = chance.choice(sentences.ID)
            value = make(chance)
            text = template.format(name=chance.choice(names), value=value)
            yield Case(f"id-{country}", "pii", text, (Label("national_id", value),))
    for _ in range(12):
        first, second = email(chance), phone(chance)
        text = chance.choice(sentences.BOTH).format(first=first, second=second)
        yield Case("both", "pii", text, (Label("email", first), Label("phone", second)))


def one(
    chance: random.Random, kind: str, filter_name: str, template: str, make: Callable[[random.Random], str]
) -> Case:
    value = make(chance)
    return Case(kind, filter_name, template.format(value=value), (Label(kind, value),))


def email(chance: random.Random) -> str:
    name = chance.choice(sentences.FIRST) + chance.choice((".", "_", "", "-")) + chance.choice(sentences.LAST)
    name = chance.choice((name, name.lower(), name.lower() + str(chance.randint(1, 99)), name[0] + "." + name[2:]))
    name += chance.choice(("", "", "", "+news", "+tag.2024"))
    host = chance.choice(sentences.HOSTS)
    return f"{name}@{host}"


def phone(chance: random.Random) -> str:
    return fill(chance, chance.choice(sentences.PHONE_FORMS))


def bare_phone(chance: random.Random) -> str:
    return fill(chance, chance.choice(sentences.PHONE_BARE))


def fill(chance: random.Random, form: str) -> str:
    """`#` any digit, `N` 2 to 9; `~` a space of some kind."""
    spaces = chance.choice((" ", " ", " ", "\xa0", "\u202f", "\u2009"))
    return "".join(
        str(chance.randint(0, 9))
        if c == "#"
        else str(chance.randint(2, 9))
        if c == "N"
        else spaces
        if c == "~"
        else c
        for c in form
    )


def secret(chance: random.Random) -> Iterator[Case]:
    for kind, form in sentences.SECRETS:
        for _ in range(2):
            value = token(chance, form)
            template = chance.choice(sentences.SECRET_TEMPLATES)
            yield Case(kind, "secrets", template.format(value=value), (Label("secret", value),))
    for template in sentences.ASSIGNED:
        is_plain = "Bearer" in template or "://" in template
        value = token(chance, "<w24>" if is_plain else chance.choice(("<w12>#!<w4>", "<w20>", "<h32>", "<b24>")))
        yield Case("assigned", "secrets", template.format(value=value), (Label("secret", value),))
    for kind in ("RSA ", "EC ", "OPENSSH ", "", "ENCRYPTED "):
        body = (
            "\n".join(token(chance, "<b64>") for _ in range(chance.randint(3, 20)))
            + "\n"
            + token(chance, "<b20>==")
        )
        key = f"-----BEGIN {kind}PRIVATE KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----"
        yield Case("pem", "secrets", f"Here it is:\n{key}\nKeep it safe.", (Label("secret", key),))
        escaped = key.replace("\n", "\\n")
        yield Case("pem-json", "secrets", f'{{"private_key": "{escaped}\\n"}}', (Label("secret", escaped),))


_CLASSES = {
    "w": string.ascii_letters + string.digits,
    "a": string.ascii_lowercase + string.digits,
    "u": string.ascii_uppercase + string.digits,
    "h": "0123456789abcdef",
    "d": string.digits,
    "b": string.ascii_letters + string.digits + "+/",
    "s": string.ascii_letters + string.digits + "_-",
}


def token(chance: random.Random, form: str) -> str:
    """`<w20>` stands for twenty characters of class w; everything else for itself."""
    made = ""
    while form:
        head, sign, form = form.partition("<")
        made += head
        if sign:
            what, _, form = form.partition(">")
            made += "".join(chance.choices(_CLASSES[what[0]], k=int(what[1:])))
    return made


def plain(chance: random.Random) -> Iterator[Case]:
    """Nothing is to be found in these, by any filter."""
    for text in sentences.PLAIN:
        yield Case("plain", "all", text)
    for template in sentences.LOOKALIKES:
        for _ in range(2):
            yield Case("lookalike", "all", fill(chance, token(chance, template)))
    for _ in range(15):
        good = iban(chance)
        bad = (
            good[:-1] + str((int(good[-1]) + chance.randint(1, 9)) % 10) if good[-1].isdigit() else good[:-1] + "?"
        )
        yield Case("near-iban", "all", f"The reference {spaced(chance, bad, 4)} did not pass the check.")
        number = card(chance)
        wrong = number[:-1] + str((int(number[-1]) + chance.randint(1, 9)) % 10)
        yield Case("near-card", "all", f"Batch {wrong} was rejected because its checksum is wrong.")


if __name__ == "__main__":
    for case in corpus():
        print(json.dumps(case._asdict(), ensure_ascii=False))
