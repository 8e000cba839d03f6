"""Personal values for the corpus: right check digits, and reserved or example ranges where there are any."""

import random
from collections.abc import Callable
from functools import cache

import phonenumbers
from stdnum import get_cc_module, iban, luhn

Maker = Callable[[random.Random], str]
FIRST = (
    "jane", "john", "maria", "li", "wei", "priya", "ahmed", "olga",
    "sven", "chloe", "mateo", "yuki", "amara", "noor", "piotr", "ines",
    "tomas", "greta", "kwame", "lucia", "dmitri", "hana", "bruno", "elif",
    "siobhan",
)  # fmt: skip
LAST = (
    "doe", "smith", "garcia", "chen", "patel", "haddad", "ivanova", "berg",
    "dupont", "rossi", "tanaka", "okafor", "nowak", "silva", "novak", "weber",
    "mensah", "moreau", "petrov", "kim", "costa", "yilmaz", "obrien", "lund",
    "vega",
)  # fmt: skip
HOSTS = (
    "example.org", "example.com", "example.net", "mail.example.com", "example.co.uk", "example.de", "example.fr",
    "example.rs", "example.py", "example.md", "example.sh", "eu.corp.example.org", "example.io",
    "sub-domain.example.net", "example.travel",
)  # fmt: skip


def digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def filled(rng: random.Random, pattern: str) -> str:
    """`pattern` with `#` as a digit, `?` as a capital letter; the rest stays."""
    letters = "ABCDEFGHJKLMNPRSTVWXYZ"
    return "".join(
        rng.choice("0123456789") if c == "#" else rng.choice(letters) if c == "?" else c for c in pattern
    )


def email(rng: random.Random) -> str:
    first, last, host = rng.choice(FIRST), rng.choice(LAST), rng.choice(HOSTS)
    form = rng.choice(
        (
            "{f}.{l}",
            "{f}.{l}",
            "{f}",
            "{f}_{l}",
            "{f}-{l}",
            "{f}{n}",
            "{f}.{l}+news",
            "{i}{l}",
            "{F}.{L}",
            "{f}.{i}.{l}",
        )
    )
    name = form.format(f=first, l=last, i=first[0], n=rng.randrange(10, 99), F=first.title(), L=last.title())
    return f"{name}@{host}"


def email_idn(rng: random.Random) -> str:
    names = ["jörg", "zoë", "андрей", "müller", "søren", "用户", "josé", "łukasz", "δημήτρης", "ユーザー"]
    hosts = [
        "bücher.example",
        "münchen.de",
        "пример.рф",
        "例え.テスト",
        "exämple.org",
        "παράδειγμα.gr",
        "example.org",
        "bücher.ch",
    ]
    return f"{rng.choice(names)}@{rng.choice(hosts)}"


def email_spelt(rng: random.Random) -> str:
    at, dot = rng.choice(((" [at] ", " [dot] "), ("[at]", "[dot]"), (" (at) ", " (dot) "), (" [at] ", ".")))
    return f"{rng.choice(FIRST)}.{rng.choice(LAST)}{at}example{dot}{rng.choice(('org', 'com', 'net'))}"


RESERVED_PHONES = {
    "US": ("+1202555 01##", "+1415555 01##", "+1212555 01##", "+1312555 01##"),
    "GB": ("+44207946 0###", "+44161496 0###", "+447700 900###", "+44131496 0###"),
    "FR": ("+33199 00####", "+33639 98####", "+33465 71####"),
    "DE": ("+493023125 ###", "+496990009 ###", "+494066969 ###", "+498999998 ###"),
    "AU": ("+61491570 ###", "+61255501 ###"),
    "SE": ("+463139006 ##", "+46846500 4##"),
}


def _number(rng: random.Random, region: str) -> phonenumbers.PhoneNumber:
    while True:
        if region in RESERVED_PHONES:
            text = filled(rng, rng.choice(RESERVED_PHONES[region])).replace(" ", "")
            number = phonenumbers.parse(text)
        else:
            kind = rng.choice((phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE))
            number = phonenumbers.example_number_for_type(region, kind)
            text = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
            number = phonenumbers.parse(text[:-4] + digits(rng, 4))
        if phonenumbers.is_valid_number(number):
            return number


ABROAD = (
    "US", "GB", "DE", "FR", "ES", "IT", "NL", "BR",
    "PL", "IN", "AU", "SE", "CH", "AT", "JP", "KR",
    "MX", "ZA", "TR", "NO",
)  # fmt: skip
HOME = ["US", "GB", "DE", "FR", "ES", "IT", "NL", "BR", "PL", "IN"]


def phone(rng: random.Random) -> str:
    """A number with `+`, grouped in one of the ways people do it."""
    number = _number(rng, rng.choice(ABROAD))
    form = rng.choice((phonenumbers.PhoneNumberFormat.INTERNATIONAL,) * 4 + (phonenumbers.PhoneNumberFormat.E164,))
    text = phonenumbers.format_number(number, form)
    return text.replace(" ", rng.choice((" ", " ", "-", ".", "\u00a0")))


def phone_e164(rng: random.Random) -> str:
    return phonenumbers.format_number(_number(rng, rng.choice(ABROAD)), phonenumbers.PhoneNumberFormat.E164)


def phone_home(rng: random.Random, region: str | None = None) -> str:
    """A number in its country's national form, in groups."""
    while True:
        number = _number(rng, region or rng.choice(HOME))
        text = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.NATIONAL)
        if not text.isdigit():
            return text


def phone_bare(rng: random.Random) -> str:
    """Ten digits in one piece: a phone number only with a word before it."""
    return str(_number(rng, "US").national_number)


CARDS = ("4###############", "51##############", "55##############", "2221############", "6011############",
         "3530############", "37#############", "34#############", "62##############")  # fmt: skip
TEST_CARDS = (
    "4111111111111111", "5555555555554444", "378282246310005", "6011111111111117", "3530111333300000",
    "2223003122003222", "4242424242424242", "5105105105105100", "371449635398431", "4000056655665556",
)  # fmt: skip


def card(rng: random.Random) -> str:
    if rng.random() < 0.25:
        return rng.choice(TEST_CARDS)
    start = filled(rng, rng.choice(CARDS))[:-1]
    return start + luhn.calc_check_digit(start)


def card_grouped(rng: random.Random) -> str:
    text, sign = card(rng), rng.choice((" ", " ", "-", "\u00a0", ".", "\u2009"))
    cuts = (4, 10, 15) if len(text) == 15 else (4, 8, 12, 16)
    return sign.join(text[a:b] for a, b in zip((0, *cuts), cuts, strict=False))


def card_short(rng: random.Random) -> str:
    """Diners, 14 digits: a card only with a word before it."""
    start = filled(rng, "36###########")
    return start + luhn.calc_check_digit(start)


BBANS = {
    "DE": "#" * 18, "GB": "????" + "#" * 14, "FR": "#" * 23, "NL": "????" + "#" * 10, "ES": "#" * 20,
    "IT": "?" + "#" * 22, "CH": "#" * 17, "AT": "#" * 16, "PL": "#" * 24, "BE": "#" * 12, "SE": "#" * 20,
    "NO": "#" * 11, "DK": "#" * 14, "FI": "#" * 14, "PT": "#" * 21, "IE": "????" + "#" * 14, "LU": "#" * 16,
    "SA": "#" * 20, "AE": "#" * 19, "MT": "????" + "#" * 23,
}  # fmt: skip


def iban_plain(rng: random.Random, country: str | None = None) -> str:
    code = country or rng.choice(sorted(BBANS))
    while True:
        text = code + "00" + filled(rng, BBANS[code])
        text = code + iban.calc_check_digits(text) + text[4:]
        if iban.is_valid(text):
            return text


def iban_grouped(rng: random.Random) -> str:
    text, sign = iban_plain(rng), rng.choice((" ", " ", " ", "\u00a0", "-"))
    return sign.join(text[i : i + 4] for i in range(0, len(text), 4))


# What stands by its form alone; the module of python-stdnum that says whether it is valid.
STRONG = {
    "us": (("us", "ssn"), "###-##-####"),
    "us_itin": (("us", "itin"), "9##-7#-####"),
    "de": (("de", "idnr"), "## ### ### ###"),
    "es": (("es", "dni"), "########?"),
    "es_nie": (("es", "nie"), "X#######?"),
    "br": (("br", "cpf"), "###.###.###-##"),
    "fr": (("fr", "nir"), "1 8# 0# 75 ### ### ##"),
    "it": (("it", "codicefiscale"), "RSS???8#A0#H501?"),
    "in": (("in_", "aadhaar"), "#### #### ####"),
    "be": (("be", "nn"), "8#.0#.1#-###.##"),
    "ch": (("ch", "ssn"), "756.####.####.##"),
    "cn": (("cn", "ric"), "11010119####1####X"),
    "cz": (("cz", "rc"), "8#0#1#/####"),
    "fi": (("fi", "hetu"), "1#0#8#-####"),
    "kr": (("kr", "rrn"), "8#0#1#-1######"),
    "mx": (("mx", "curp"), "GOM?8#0#1#HDF???0#"),
    "se": (("se", "personnummer"), "8#0#1#-####"),
}
# In one piece, after a word.
WORDED = {
    "us": (("us", "ssn"), "#########"),
    "pl": (("pl", "pesel"), "8#0#1######"),
    "nl": (("nl", "bsn"), "#########"),
    "gb_nhs": (("gb", "nhs"), "999#######"),
    "br": (("br", "cpf"), "###########"),
    "de": (("de", "idnr"), "###########"),
    "ca": (("ca", "sin"), "1########"),
    "au": (("au", "tfn"), "#########"),
    "no": (("no", "fodselsnummer"), "1#0#8######"),
    "dk": (("dk", "cpr"), "1#0#8#-####"),
    "tr": (("tr", "tckimlik"), "1##########"),
    "ro": (("ro", "cnp"), "18#0#1#40####"),
    "cl": (("cl", "rut"), "1#.###.###-#"),
    "za": (("za", "idnr"), "8#0#1#5###08#"),
    "pt": (("pt", "nif"), "2########"),
    "ie": (("ie", "pps"), "#######?A"),
    "bg": (("bg", "egn"), "8#0#1#####"),
}


@cache
def _check(country: str, name: str) -> Callable[[str], bool] | None:
    try:
        return __import__(f"stdnum.{country}.{name}", fromlist=["is_valid"]).is_valid
    except ModuleNotFoundError:
        module = get_cc_module(country.rstrip("_"), name)
        return module.is_valid if module else None


def personal(rng: random.Random, forms: dict[str, tuple[tuple[str, str], str]], country: str | None = None) -> str:
    known = [key for key in forms if _check(*forms[key][0])]
    module, pattern = forms[country or rng.choice(known)]
    check = _check(*module)
    for _ in range(400_000):
        text = filled(rng, pattern)
        if check and check(text):
            return text
    raise ValueError(f"no valid number of {module}")


def nid(rng: random.Random) -> str:
    if rng.random() < 0.06:
        return nino(rng)
    return personal(rng, STRONG)


def nino(rng: random.Random) -> str:
    """A British insurance number, which has no check digit: a prefix that is given out, a suffix of A to D."""
    text = filled(rng, rng.choice(("AB", "CE", "HR", "JG", "PW")) + "######") + rng.choice("ABCD")
    return " ".join((text[:2], text[2:4], text[4:6], text[6:8], text[8])) if rng.random() < 0.6 else text


def ipv4(rng: random.Random) -> str:
    return rng.choice(("192.0.2.", "198.51.100.", "203.0.113.")) + str(rng.randrange(1, 255))


def ipv6(rng: random.Random) -> str:
    return rng.choice(("2001:db8::{:x}", "2001:db8:85a3::8a2e:370:{:x}", "2001:db8:0:1:1:1:1:{:x}")).format(
        rng.randrange(16, 65535)
    )


PERSONAL: dict[str, tuple[str, Maker]] = {
    "email": ("email", email),
    "email_idn": ("email", email_idn),
    "email_spelt": ("email", email_spelt),
    "phone": ("phone", phone),
    "phone_e164": ("phone", phone_e164),
    "phone_home": ("phone", phone_home),
    "phone_bare": ("phone", phone_bare),
    "card": ("card", card),
    "card_grouped": ("card", card_grouped),
    "card_short": ("card", card_short),
    "iban": ("iban", iban_plain),
    "iban_grouped": ("iban", iban_grouped),
    "nid": ("national_id", nid),
    "nid_gb": ("national_id", nino),
    "ipv4": ("ip_address", ipv4),
    "ipv6": ("ip_address", ipv6),
    **{f"phone_{r.lower()}": ("phone", lambda rng, r=r: phone_home(rng, r)) for r in HOME},
    **{f"nid_{k}": ("national_id", lambda rng, k=k: personal(rng, STRONG, k)) for k in STRONG},
    **{f"num_{k}": ("national_id", lambda rng, k=k: personal(rng, WORDED, k)) for k in WORDED},
}
