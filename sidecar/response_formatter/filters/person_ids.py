"""Numbers that states give to persons. Checked by python-stdnum; weak checksums need a word that names the number.

Sources of the forms: the issuing states' published rules as python-stdnum's modules cite them, and for the United
Kingdom HMRC's manual NIM39110.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, NamedTuple

from sidecar.response_formatter.filters.numbers import DigitRun, Stretch, before
from sidecar.response_formatter.filters.scanner import Match

_PERSONAL = r"identi|personal|national|citizen|tax(?:payer)?[ -]?(?:id|n)|steuer|fiscal|\bid\b|passport"


class NumberForm(NamedTuple):
    """A number of digits alone.

    `grouped` are the sizes of groups by which it is known without a word; None where none are. `words` is what
    names it. `joints` are the signs that then stand between the groups, in order; empty for any.
    """

    country: str
    digits: int
    module: str
    words: "re.Pattern[str]"
    grouped: tuple[tuple[int, ...], ...] = ()
    joints: str = ""
    is_strong: bool = False


def _number(
    country: str,
    digits: int,
    module: str,
    words: str,
    grouped: str = "",
    joints: str = "",
    *,
    is_strong: bool = False,
) -> NumberForm:
    sizes = tuple(tuple(int(size) for size in form.split("-")) for form in grouped.split())
    return NumberForm(country, digits, module, re.compile(words), sizes, joints, is_strong)


_NUMBERS: tuple[NumberForm, ...] = (
    _number("us", 9, "us.ssn", r"\bssn\b|social[ -]?sec", "3-2-4", "--"),
    _number("us", 9, "us.itin", r"\bitin\b|taxpayer", "3-2-4", "--"),
    _number("gb", 10, "gb.nhs", r"\bnhs\b"),
    _number("de", 11, "de.idnr", r"steuer|\bidnr|tax[ -]?id|\btin\b|identifikationsn", "2-3-3-3"),
    _number("br", 11, "br.cpf", r"\bcpf\b", "3-3-3-2", "..-"),
    _number("pl", 11, "pl.pesel", r"pesel"),
    _number("nl", 9, "nl.bsn", r"\bbsn\b|burgerservice|sofi"),
    _number(
        "fr",
        15,
        "fr.nir",
        r"insee|\bnir\b|s[eé]curit[eé] sociale|\bss\b",
        "1-2-2-2-3-3-2 13-2 1-2-2-5-3-2",
    ),
    _number("in", 12, "in_.aadhaar", r"aadha?ar|uidai|\buid\b|आधार", "4-4-4", "  "),
    _number("ca", 9, "ca.sin", r"\bsin\b|social insurance|\bnas\b|assurance sociale"),
    _number("au", 9, "au.tfn", r"\btfn\b|tax file"),
    _number("se", 10, "se.personnummer", r"person(?:al|lig)?[- ]?(?:nummer|number|nr)", "6-4", "-"),
    _number("dk", 10, "dk.cpr", r"\bcpr\b|personnummer"),
    _number("no", 11, "no.fodselsnummer", r"f[øo]dsels|personnummer|national id"),
    _number(
        "be",
        11,
        "be.nn",
        r"rijksregister|registre national|national (?:register|number)|\bnn\b|insz|niss",
        "2-2-2-3-2",
        "..-.",
    ),
    _number("ch", 13, "ch.ssn", r"\bahv|\bavs\b", "3-4-4-2", "...", is_strong=True),
    _number("at", 10, "at.vnr", r"svnr|sozialvers|versicherungsn"),
    _number("pt", 9, "pt.nif", r"\bnif\b|contribuinte"),
    _number("tr", 11, "tr.tckimlik", r"kimlik|\btc\b|t\.c\."),
    _number("za", 13, "za.idnr", _PERSONAL),
    _number("kr", 13, "kr.rrn", r"\brrn\b|resident|주민", "6-7", "-"),
    _number("jp", 12, "jp.in_", r"my ?number|マイナンバー|個人番号"),
    _number("il", 9, "il.idnr", r"teudat|israel|ת\.?ז"),
    _number("bg", 10, "bg.egn", r"\begn\b|егн"),
    _number("cz", 10, "cz.rc", r"rodn[ée]|\brč\b|\brc\b", "6-4", "/"),
    _number("ro", 13, "ro.cnp", r"\bcnp\b|cod numeric"),
    _number("ee", 11, "ee.ik", r"isikukood|personal code"),
    _number("lt", 11, "lt.asmens", r"asmens|personal code"),
    _number("gr", 11, "gr.amka", r"\bamka\b|αμκα"),
    _number("ar", 11, "ar.cuit", r"\bcui[tl]\b", "2-8-1", "--"),
    _number("cl", 9, "cl.rut", r"\bru[tn]\b"),
    _number("cn", 18, "cn.ric", r"", "18", is_strong=True),
    _number("my", 12, "my.nric", r"\bmykad\b|nric|\bic\b", "6-2-4", "--"),
)
_BY_DIGITS: dict[int, tuple[NumberForm, ...]] = {
    size: tuple(form for form in _NUMBERS if form.digits == size) for size in {form.digits for form in _NUMBERS}
}

_ANY_WORD = {
    size: re.compile("|".join(form.words.pattern for form in forms if form.words.pattern) or r"(?!)")
    for size, forms in _BY_DIGITS.items()
}


# What announces one, but the commonest words, whose numbers are known by their size.
ANNOUNCING = tuple(
    form.words.pattern for form in _NUMBERS if form.words.pattern and form.words.pattern != _PERSONAL
)


class LetterForm(NamedTuple):
    country: str
    pattern: "re.Pattern[str]"
    module: str | None
    words: "re.Pattern[str] | None"
    at_digit: bool


def _letters(country: str, pattern: str, module: str | None, words: str | None = None) -> LetterForm:
    whole = re.compile(rf"(?<![^\W_])(?<![\w][\-.]){pattern}(?![^\W_])(?!-\w)")
    named = re.compile(words) if words else None
    return LetterForm(country, whole, module, named, pattern.startswith(("\\d", "(?:19", "[12]")))


_S = r"[ \xa0\u2009\u202f]?"
_J = r"[ \xa0\u2009\u202f.\-]?"
_NINO_END = rf"{_S}\d{{2}}{_S}\d{{2}}{_S}\d{{2}}{_S}"
# QQ was never issued: it is what examples have.
_NINO = rf"(?:QQ|(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]){_NINO_END}[A-D]"
_CODICE = (
    rf"[A-Z]{{3}}{_S}[A-Z]{{3}}{_S}[0-9LMNP-V]{{2}}[ABCDEHLMPRST][0-9LMNP-V]{{2}}{_S}"
    rf"[A-Z][0-9LMNP-V]{{3}}{_S}?[A-Z]"
)
_LETTERS: tuple[LetterForm, ...] = (
    _letters("gb", _NINO, None),
    _letters("gb", rf"[A-Za-z]{{2}}{_NINO_END}[A-Za-z]", None, r"\bnino\b|national insurance|\bni\b"),
    _letters("es", rf"\d{{2}}{_J}\d{{3}}{_J}\d{{3}}{_J}[A-HJ-NP-TV-Za-hj-np-tv-z]", "es.dni"),
    _letters("es", rf"[XYZxyz]{_J}\d{{7}}{_J}[A-HJ-NP-TV-Za-hj-np-tv-z]", "es.nie"),
    _letters("it", _CODICE, "it.codicefiscale"),
    _letters("it", r"[a-z]{6}\d{2}[a-z]\d{2}[a-z]\d{3}[a-z]", "it.codicefiscale"),
    _letters("fr", rf"[12]{_S}\d{{2}}{_S}\d{{2}}{_S}2[AB]{_S}\d{{3}}{_S}\d{{3}}{_S}\d{{2}}", "fr.nir"),
    _letters("fi", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]", "fi.hetu"),
    _letters("cn", r"\d{17}[Xx]", "cn.ric"),
    _letters("in", r"[A-Z]{3}[ABCFGHJLPT][A-Z]\d{4}[A-Z]", "in_.pan", r"\bpan\b|permanent account"),
    _letters("mx", r"[A-Z][AEIOUX][A-Z]{2}\d{6}[HMX][A-Z]{5}[A-Z0-9]\d", "mx.curp"),
    _letters("ie", r"\d{7}[A-W][A-IW]?", "ie.pps", r"\bpps\b|personal public service"),
    _letters("se", r"(?:19|20)?\d{6}[-+]\d{4}", "se.personnummer"),
    _letters("cl", r"\d{1,2}\.?\d{3}\.?\d{3}-[\dkK]", "cl.rut", r"\bru[tn]\b"),
    _letters("sg", r"[STFGM]\d{7}[A-Z]", None, r"nric|\bfin\b|singapore"),
    _letters("tw", r"[A-Z][1289]\d{8}", None, r"national id|身分證"),
)
_AT_DIGIT = tuple(form for form in _LETTERS if form.at_digit)
_AT_LETTER = tuple(form for form in _LETTERS if not form.at_digit)


def _any_of(forms: Sequence[LetterForm]) -> str:
    return "(?:" + "|".join(form.pattern.pattern for form in forms) + ")"


# Where one begins: at a digit, or at letters with a digit not far behind. One search for all forms.
_START = re.compile(
    rf"(?<![^\W_])(?:(?=\d){_any_of(_AT_DIGIT)}"
    r"|(?=[A-Za-z](?=[A-Za-z]{0,5}[ \xa0\u2009\u202f.\-]?[A-Za-z]{0,3}[ \xa0\u2009\u202f]?\d))"
    rf"{_any_of(_AT_LETTER)})"
)


# What RE2 has not: looking ahead and behind; and escapes that it writes otherwise.
_LOOK = re.compile(r"\(\?<?[!=](?:[^()\\\[]|\\.|\[[^\]]*\])*\)")
_WIDEST = 64
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")


@cache
def _roughly() -> Any:
    """Where one may be at all: the same forms without what stands around them, in one pass."""
    import re2

    options = re2.Options()
    options.log_errors = False
    bodies = [_LOOK.sub("", form.pattern.pattern) for form in _LETTERS]
    plain = "|".join(_ESCAPE.sub(lambda found: chr(int(found[1], 16)), body) for body in bodies)
    return re2.compile(plain, options)


def number_id(run: DigitRun) -> Iterator[Match]:
    """Persons' numbers among a run's stretches."""
    for one in run.stretches:
        forms = _BY_DIGITS.get(len(one.digits), ())
        if not forms:
            continue
        # Most often nothing there names any number: one look for all forms, instead of one for each.
        is_named = bool(one.said) and _ANY_WORD[len(one.digits)].search(one.said) is not None
        if not is_named:
            forms = _formed(one.sizes) if one.is_bare else ()
        for form in forms:
            if _is_it(one, form, is_named=is_named):
                yield Match(one.start, one.end, f"national_id_{form.country}")
                break


@lru_cache(maxsize=4096)
def _formed(sizes: tuple[int, ...]) -> tuple[NumberForm, ...]:
    """Those that may be known without a word, in groups of these sizes."""
    return tuple(form for form in _BY_DIGITS.get(sum(sizes), ()) if sizes in form.grouped or form.is_strong)


def ids_with_letters(text: str, start: int) -> Sequence[Match]:
    """Persons' numbers that have letters."""
    found = []
    for at in _starts(text, start):
        for form in _AT_DIGIT if text[at].isdecimal() else _AT_LETTER:
            match = form.pattern.match(text, at)
            if match is None or (form.words is not None and not form.words.search(before(text, at))):
                continue
            if form.module is None or _is_number(form.module, _compact(match[0])):
                found.append(Match(at, match.end(), f"national_id_{form.country}"))
    return found


def _starts(text: str, start: int) -> Iterator[int]:
    for rough in _roughly().finditer(text, start):
        at, end = rough.span()
        while (place := _START.search(text, at, end + _WIDEST)) is not None and place.start() < end:
            yield place.start()
            at = place.start() + 1


def _is_it(one: Stretch, form: NumberForm, *, is_named: bool) -> bool:
    """`is_named`: a word before it names some number. Whether the checksum is right is the dearest question."""
    if len(set(one.digits)) < 2:
        return False
    is_formed = one.sizes in form.grouped and (not form.joints or "".join(one.gaps) == form.joints)
    if form.joints.isspace():
        is_formed = is_formed and one.is_alone
    is_known = (is_formed or form.is_strong) and one.is_bare
    if not is_known and not (is_named and form.words.pattern and form.words.search(one.said)):
        return False
    return _is_number(form.module, one.digits)


@lru_cache(maxsize=8192)
def _is_number(module: str, value: str) -> bool:
    try:
        return _checker(module)(value)
    except (LookupError, ValueError, TypeError, AttributeError):
        # python-stdnum's tables of places have gaps that some numbers fall into.
        return False


def _compact(value: str) -> str:
    return "".join(c for c in value if c.isalnum() or c in "+-").upper()


def _is_ssn(digits: str) -> bool:
    """Form alone: python-stdnum refuses numbers that were printed somewhere, such as the specimen of a wallet."""
    return digits[:3] not in ("000", "666") and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"


_CHECKERS: dict[str, Callable[[str], bool]] = {"us.ssn": _is_ssn}


def load_checkers() -> None:
    """Import all that is needed: when a policy is read, not while answers are on their way."""
    for module in {form.module for form in _NUMBERS} | {form.module for form in _LETTERS if form.module}:
        _checker(module)


def _checker(module: str) -> Callable[[str], bool]:
    """python-stdnum's `is_valid` of one kind of number."""
    known = _CHECKERS.get(module)
    if known is None:
        known = _CHECKERS[module] = import_module(f"stdnum.{module}").is_valid
    return known
