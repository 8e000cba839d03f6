# ruff: noqa: E501
"""Numbers with the right checksums, computed here and not by the library that the filters use."""

import random
from collections.abc import Callable, Mapping

Maker = Callable[[random.Random], str]

_BANKS = {
    "DE": "d18", "GB": "u4d14", "FR": "d10w11d2", "ES": "d20", "IT": "u1d10w12", "NL": "u4d10", "PL": "d24", "CH": "d5w12",
    "AT": "d16", "BE": "d12", "SE": "d20", "NO": "d11", "DK": "d14", "FI": "d14", "PT": "d21", "IE": "u4d14", "CZ": "d20",
}  # fmt: skip
_CARDS = (
    ("4", 16),
    ("51", 16),
    ("55", 16),
    ("2221", 16),
    ("34", 15),
    ("37", 15),
    ("6011", 16),
    ("3530", 16),
    ("36", 14),
)


def digits(chance: random.Random, size: int) -> str:
    return "".join(str(chance.randint(0, 9)) for _ in range(size))


def luhn_digit(number: str) -> str:
    total = sum(sum(divmod(int(d) * (2 if i % 2 == 0 else 1), 10)) for i, d in enumerate(reversed(number)))
    return str(-total % 10)


def card(chance: random.Random) -> str:
    prefix, size = chance.choice(_CARDS)
    body = prefix + digits(chance, size - len(prefix) - 1)
    return body + luhn_digit(body)


def iban(chance: random.Random) -> str:
    country = chance.choice(sorted(_BANKS))
    form, body = _BANKS[country], ""
    while form:
        kind, form = form[0], form[1:]
        size = "".join(c for c in form[:2] if c.isdigit())
        form = form[len(size) :]
        letters = {"d": "0123456789", "u": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "w": "0123456789ABCDEFGHJKLMNP"}[kind]
        body += "".join(chance.choices(letters, k=int(size)))
    value = int("".join(str(int(c, 36)) for c in f"{body}{country}00"))
    return f"{country}{98 - value % 97:02d}{body}"


def spaced(chance: random.Random, value: str, size: int) -> str:
    """As people write it: in one piece, or in groups with a space, a hyphen or a no-break space between."""
    joint = chance.choice(("", "", " ", " ", " ", "-", "\xa0", "\u202f"))
    if len(value) == 15 and joint and value[0] == "3":
        return joint.join((value[:4], value[4:10], value[10:]))
    return joint.join(value[i : i + size] for i in range(0, len(value), size))


def ssn(chance: random.Random) -> str:
    area = chance.choice([n for n in range(1, 900) if n != 666])
    joint = chance.choice(("-", "-", " ", ""))
    return joint.join((f"{area:03d}", f"{chance.randint(1, 99):02d}", f"{chance.randint(1, 9999):04d}"))


def nino(chance: random.Random) -> str:
    prefix = chance.choice(("AA", "AB", "CE", "JG", "QQ"[0:0] + "PX", "SR", "WM", "YZ"))
    joint = chance.choice(("", " "))
    return joint.join((prefix, *(digits(chance, 2) for _ in range(3)), chance.choice("ABCD")))


def steuer_id(chance: random.Random) -> str:
    """One digit twice, one missing; check digit by ISO 7064 MOD 11,10."""
    order = list("0123456789")
    chance.shuffle(order)
    while order[0] == "0" or order[1] == "0":
        chance.shuffle(order)
    body = [*order[:9], order[1]]
    if body[8] == body[9]:
        body[8], body[5] = body[5], body[8]
    product = 10
    for digit in body:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    check = (11 - product) % 10
    number = "".join(body) + str(check)
    return chance.choice((number, f"{number[:2]} {number[2:5]} {number[5:8]} {number[8:]}"))


_DNI = "TRWAGMYFPDXBNJZSQVHLCKE"


def dni(chance: random.Random) -> str:
    number = chance.randint(1_000_000, 99_999_999)
    return f"{number:08d}{chance.choice(('', '-', ' '))}{_DNI[number % 23]}"


def nie(chance: random.Random) -> str:
    first, number = chance.randint(0, 2), chance.randint(0, 9_999_999)
    return f"{'XYZ'[first]}{chance.choice(('', '-'))}{number:07d}{chance.choice(('', '-'))}{_DNI[(first * 10**7 + number) % 23]}"


def cpf(chance: random.Random) -> str:
    body = digits(chance, 9)
    for size in (10, 11):
        total = sum(int(d) * w for d, w in zip(body, range(size, 1, -1), strict=True))
        body += str(0 if total % 11 < 2 else 11 - total % 11)
    return chance.choice((body, f"{body[:3]}.{body[3:6]}.{body[6:9]}-{body[9:]}"))


def pesel(chance: random.Random) -> str:
    body = f"{chance.randint(40, 99)}{chance.randint(1, 12):02d}{chance.randint(1, 28):02d}{digits(chance, 4)}"
    total = sum(int(d) * w for d, w in zip(body, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3), strict=True))
    return body + str(-total % 10)


def bsn(chance: random.Random) -> str:
    while True:
        body = str(chance.randint(1, 9)) + digits(chance, 7)
        total = sum(int(d) * w for d, w in zip(body, range(9, 1, -1), strict=True)) % 11
        if total < 10:
            return body + str(total)


def nir(chance: random.Random) -> str:
    body = f"{chance.randint(1, 2)}{chance.randint(30, 99)}{chance.randint(1, 12):02d}{chance.randint(1, 95):02d}"
    body += f"{chance.randint(1, 900):03d}{chance.randint(1, 999):03d}"
    key = f"{97 - int(body) % 97:02d}"
    if chance.random() < 0.5:
        return body + key
    return f"{body[0]} {body[1:3]} {body[3:5]} {body[5:7]} {body[7:10]} {body[10:]} {key}"


_ODD = {**dict(zip("0123456789", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21), strict=True))}
_ODD |= dict(
    zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
        strict=True,
    )
)


def codice_fiscale(chance: random.Random) -> str:
    body = "".join(chance.choices("BCDFGLMNPRSTVZ", k=6)) + f"{chance.randint(0, 99):02d}"
    body += chance.choice("ABCDEHLMPRST") + f"{chance.randint(1, 28):02d}" + chance.choice("ABCDEFGHIL")
    body += digits(chance, 3)
    total = sum(_ODD[c] if i % 2 == 0 else int(c, 36) - (10 if c.isalpha() else 0) for i, c in enumerate(body))
    return body + chr(65 + total % 26)


_D = [
    [(i + j) % 5 + 5 * (i // 5 ^ j // 5) if i < 5 else ((i - j) % 5 + 5 * (1 - j // 5)) for j in range(10)]
    for i in range(10)
]
_P = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
for _ in range(6):
    _P.append([_P[-1][_P[1][i]] for i in range(10)])


def aadhaar(chance: random.Random) -> str:
    """Verhoeff's check digit, over the dihedral group of ten elements."""
    body = str(chance.randint(2, 9)) + digits(chance, 10)
    for check in range(10):
        total = 0
        for place, digit in enumerate(reversed(body + str(check))):
            total = _D[total][_P[place % 8][int(digit)]]
        if total == 0:
            number = body + str(check)
            return chance.choice((number, f"{number[:4]} {number[4:8]} {number[8:]}"))
    raise AssertionError


ID_MAKERS: Mapping[str, tuple[Maker, tuple[str, ...]]] = {
    "us": (ssn, ("SSN", "social security number", "Social Security No.")),
    "gb": (nino, ("National Insurance number", "NINO", "NI number")),
    "de": (steuer_id, ("Steuer-ID", "steuerliche Identifikationsnummer", "Steueridentifikationsnummer", "tax ID")),
    "es": (dni, ("DNI", "documento nacional de identidad", "ID")),
    "es-nie": (nie, ("NIE", "número de identidad de extranjero")),
    "br": (cpf, ("CPF", "cadastro (CPF)")),
    "pl": (pesel, ("PESEL", "numer PESEL")),
    "nl": (bsn, ("BSN", "burgerservicenummer")),
    "fr": (nir, ("numéro de sécurité sociale", "NIR", "numéro INSEE")),
    "it": (codice_fiscale, ("codice fiscale", "CF")),
    "in": (aadhaar, ("Aadhaar", "Aadhaar number", "UIDAI number")),
}
