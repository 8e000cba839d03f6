"""Personal data in text: addresses, numbers of phones, accounts, cards and persons. Pure.

Forms with a strong checksum count by themselves; where a checksum is weak or none, a word before the number that
says what it is must be there too. Libraries know the numbers: python-stdnum and phonenumbers.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from ipaddress import ip_address
from itertools import product
from string import ascii_uppercase, digits

from sidecar.config.filters import PiiOptions
from sidecar.response_formatter.filters.candidates import CONTEXT, Announcer
from sidecar.response_formatter.filters.numbers import CARD_WORDS, DigitRun, runs_in
from sidecar.response_formatter.filters.person_ids import ANNOUNCING as id_words
from sidecar.response_formatter.filters.person_ids import ids_with_letters, load_checkers, number_id
from sidecar.response_formatter.filters.phones import ANNOUNCING as phone_words
from sidecar.response_formatter.filters.phones import PhoneBook
from sidecar.response_formatter.filters.scanner import Match, each_start

_WINDOW = 330
_LONGEST_LOCAL = 64

_LOCAL_BACKWARDS = re.compile(r"[\w.+%'&/=?^{|}~!#$*\-]{1,64}")
_LOCAL_EDGE = ".%'/=?&{|}!#$*-^~"
_DOMAIN = re.compile(
    r"(?:[^\W_](?:[\w\-]{0,61}[^\W_])?[.\uff0e\u3002]){1,6}(?:xn--[a-zA-Z0-9\-]{2,40}|[^\W\d_]{2,24})(?![^\W_])"
)
_AT = r"(?:\[ ?(?:at|AT|@) ?\]|\( ?(?:at|AT|@) ?\))"
_DOT = r"(?:\[ ?(?:dot|DOT|\.) ?\]|\( ?(?:dot|DOT|\.) ?\))"
_BRACKETED_SIGN = re.compile(rf" ?{_AT}")
_BRACKETED = re.compile(
    rf"(?<![\w.+\-])[\w.+\-]{{1,64}} ?{_AT} ?[\w\-]{{1,40}}(?:(?: ?{_DOT} ?|\.)[\w\-]{{1,40}}){{0,3}}"
    rf"(?: ?{_DOT} ?|\.)[^\W\d_]{{2,24}}(?!\w)"
)
# The user of a URL; what stands in its path, query or fragment is an address like any other.
_IN_URL = re.compile(r"://[^\s/@?#=&]{0,60}\Z")
# Where a command copies to or logs in at: a host after its user, behind options and paths.
_REMOTE = re.compile(
    r"(?<![\w\-/])(?:ssh|scp|rsync|sftp|mosh|sshfs|ssh-copy-id|ssh-keyscan)"
    r"(?: +(?:-[^\s]{1,24}|\d{1,5}|[\w.~*\-]*[./~*:][^\s@]{0,40}|[\w\-]{1,16}(?= [^ ]*@))){0,5} +[\"']?\Z"
)
# A path on that host.
_REMOTE_PATH = re.compile(r":(?:[~/.]|[\w.\-]{1,40}/|\d{2,5}/)")
_SEPARATORS = re.compile(r".*[=?&/|{}](?=.)", re.DOTALL)
_MASKED = re.compile(r"\*{2}|x{4}|\.{2}", re.IGNORECASE)
_LABEL_OF_SCALE = re.compile(r"\d{1,2}x\Z", re.IGNORECASE)
_FILES = frozenset(
    {"png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "js", "mjs", "ts", "tsx", "jsx", "css", "scss", "html"}
    # Endings that are no domain of any country's, or anybody's.
    | {"rb", "go", "json", "yml", "yaml", "txt", "toml", "lock", "xml", "csv", "log", "cfg", "ini", "exe", "dll"}
)
_HOSTS = frozenset({"local", "localhost", "localdomain", "internal", "service", "target", "timer", "socket"})

_IBAN = re.compile(
    r"(?<![^\W_])[A-Za-z]{2}[ \xa0\u202f.\-]?[0-9]{2}(?:[ \xa0\u2000-\u200a\u202f.\-]{0,2}[A-Za-z0-9]){11,30}"
)
_ADDRESS = re.compile(r"(?<![\w:.])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-fA-F:]{6,39})(?![\w:]|\.\d)")
_DIGIT = re.compile(r"\d")
_VALUES = {char: str(int(char, 36)) for char in digits + ascii_uppercase}

# Where no finding can reach across: the end of a line, punctuation, or a word too long to be a part of a number.
_BREAK = re.compile(
    r"\n|[,;!?]\s|[\u3001\u3002\uff0c\uff1b\uff1a\uff01\uff1f]|(?<![^\s(\"'“„«])(?![A-Z]+[\s.:)\"'])[^\W\d_]{5,}"
    r"[.:)\"'”“»]{0,3}[ \t\xa0](?=[^\s\[(])"
)


class PiiDetector:
    """Findings of the kinds asked for; those of persons' numbers say the country: `national_id_us`."""

    window = _WINDOW
    context = CONTEXT

    def __init__(self, options: PiiOptions) -> None:
        self._kinds = frozenset(options.kinds)
        self._phones = PhoneBook(options.regions) if "phone" in self._kinds else None
        self._allowed = frozenset(value.casefold() for value in options.allow)
        if "national_id" in self._kinds:
            load_checkers()
        words = {"phone": phone_words, "card": (CARD_WORDS,), "national_id": id_words}
        wanted = [word for kind, said in words.items() if kind in self._kinds for word in said]
        self._announcer = Announcer(wanted) if wanted else None

    def find(self, text: str, start: int) -> Sequence[Match]:
        found: list[Match] = []
        if "email" in self._kinds:
            self._emails(text, start, found)
        if _DIGIT.search(text, start) is not None:
            self._with_digits(text, start, found)
        if self._allowed:
            return [one for one in found if text[one.start : one.end].casefold() not in self._allowed]
        return found

    def settled(self, text: str, start: int) -> int:
        at = 0
        for match in _BREAK.finditer(text, start):
            at = match.end()
        return at

    def _with_digits(self, text: str, start: int, found: list[Match]) -> None:
        if "iban" in self._kinds:
            _ibans(text, start, found)
        if self._announcer is not None:
            for run in runs_in(text, start, self._announcer):
                self._numbers(run, found)
        if "national_id" in self._kinds:
            found.extend(ids_with_letters(text, start))
        if "ip_address" in self._kinds:
            for match in each_start(_ADDRESS, text, start):
                if _is_address(match[0]):
                    found.append(Match(match.start(), match.end(), "ip_address"))

    def _numbers(self, run: DigitRun, found: list[Match]) -> None:
        if "national_id" in self._kinds:
            found.extend(number_id(run))
        if "card" in self._kinds:
            found.extend(run.cards())
        if self._phones is not None:
            found.extend(self._phones.find(run))

    def _emails(self, text: str, start: int, found: list[Match]) -> None:
        for sign in ("@", "\uff20"):
            at = text.find(sign, start)
            while at >= 0:
                one = _email(text, at)
                if one is not None:
                    found.append(one)
                at = text.find(sign, at + 1)
        if "[" in text or "(" in text:
            found.extend(_bracketed(text, start))


def _bracketed(text: str, start: int) -> Iterator[Match]:
    at = start
    for sign in _BRACKETED_SIGN.finditer(text, start):
        at = max(at, sign.start() - _LONGEST_LOCAL - 1)
        while (
            match := _BRACKETED.search(text, at, sign.end() + _WINDOW)
        ) is not None and match.start() < sign.start():
            yield Match(match.start(), match.end(), "email")
            at = match.start() + 1
        at = max(at, sign.start())


def _email(text: str, at: int) -> Match | None:
    # Backwards, since it ends where the sign stands: forwards every beginning would be tried.
    local = _LOCAL_BACKWARDS.match(text[max(0, at - _LONGEST_LOCAL) : at][::-1])
    if local is None:
        return None
    domain = _DOMAIN.match(text, at + 1)
    if domain is None:
        return None
    name = _SEPARATORS.sub("", local[0][::-1]).lstrip(_LOCAL_EDGE)
    host, _, last = domain[0].rpartition(".")
    if not name or name.endswith(".") or last.lower() in _FILES or last.lower() in _HOSTS:
        return None
    if _MASKED.search(name) or _LABEL_OF_SCALE.fullmatch(host):
        return None
    return (
        None
        if _is_remote(text, at - len(name), name, domain.end())
        else Match(at - len(name), domain.end(), "email")
    )


def _is_remote(text: str, start: int, name: str, end: int) -> bool:
    """Whether it is a user and a host, of a URL or a command."""
    if name == "git" and text[end : end + 1] in (":", "/"):
        return True
    since = max(0, start - 64)
    if _IN_URL.search(text, since, start) or _REMOTE_PATH.match(text, end):
        return True
    return _REMOTE.search(text, since, start) is not None


def _is_address(value: str) -> bool:
    if "." not in value and (value.count(":") < 3 or not _DIGIT.search(value)):
        return False
    try:
        ip_address(value)
    except ValueError:
        return False
    return True


def _ibans(text: str, start: int, found: list[Match]) -> None:
    for match in each_start(_IBAN, text, start):
        end = _iban_end(text, match)
        if end:
            found.append(Match(match.start(), end, "iban"))


def _iban_end(text: str, match: "re.Match[str]") -> int:
    """Where the account number that begins a match ends; 0 when none does."""
    from stdnum import iban

    most = _iban_sizes().get(text[match.start() : match.start() + 2].upper())
    if most is None:
        return 0
    places = [at for at in range(match.start(), match.end()) if text[at].isalnum()]
    compact = "".join([text[at] for at in places]).upper()
    for size in range(min(len(compact), most), 14, -1):
        after = text[places[size - 1] + 1 : places[size - 1] + 2]
        if after and (after.isalnum() or after == "_"):
            continue
        if _BREAK.search(text, match.start(), places[size - 1]):
            continue
        if _is_mod_97(compact[:size]) and iban.is_valid(compact[:size], check_country=False):
            return places[size - 1] + 1
    return 0


@cache
def _iban_sizes() -> Mapping[str, int]:
    """The longest account number of each country that has any, by the registry that python-stdnum carries."""
    from stdnum import numdb

    registry = numdb.get("iban")
    sizes: dict[str, int] = {}
    for country in map("".join, product(ascii_uppercase, repeat=2)):
        form = registry.info(country)[0][1].get("bban")
        if form:
            sizes[country] = 4 + sum(map(int, re.findall(r"\d+", form)))
    return sizes


def _is_mod_97(compact: str) -> bool:
    if not compact.isascii():
        return False
    return int("".join([_VALUES[c] for c in compact[4:] + compact[:4]])) % 97 == 1
