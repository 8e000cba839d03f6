"""Secrets: keys of the big providers by their published forms, tokens, private keys, and values assigned to names
that say so. Pure. Every pattern is bounded; what may be longer goes on by a tail."""

import math
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from sidecar.config.filters import SecretsOptions
from sidecar.response_formatter.filters.scanner import Match, each_start
from sidecar.response_formatter.filters.secret_forms import FORMS, Form

_WINDOW = 640
_CONTEXT = 192
_PEM = re.compile("-----[BE]")

# What a name goes on with that says of a secret something else than itself.
_ABOUT = (
    r"(?:names?|ids?|arns?|paths?|files?|filename|urls?|uris?|refs?|types?|fields?|versions?|length|len|min|max|policy"
    r"|policies|expiry|expires|expiration|ttl|age|count|limit|manager|store|storage|vault|location|reset|rotation"
    r"|endpoint|column|input|label|hint|prompt|provider|env|var|variable|key_?name|resource|hash_?algo|algorithm|scope"
    r"|scopes|issuer|audience|used|usage|budget|rate|size|per)"
)
_NAMES = (
    r"(?:(?:api|secret|access|private|auth|encryption|signing|master|account|client)[_\-. ]?"
    r"(?:key|secret|token)s?|secrets?|(?:[a-z]{1,20}[_-])?(?:tokens?|passw(?:or)?ds?|passwd|pwd|passphrase)"
    r"|(?:pg|mysql|redis|smtp|db|sudo)_?pass(?:word)?|credentials?|passwort|kennwort|contraseña|senha|hasło|wachtwoord"
    r"|mot de passe|пароль)"
)
_ASSIGNED = re.compile(
    rf"(?<![A-Za-z])(?P<name>{_NAMES})(?![_-]{_ABOUT}(?![a-z]))(?:[_-][a-z]{{1,20}}){{0,2}}(?<!_name)(?<!_id)"
    r"[\"'`*]{0,3}\s{0,3}(?:=>|:=|==|=|:|\b(?:is|ist|est|es|was)\b|→|is set to)\s{0,3}(?P<quote>[\"'`*]{0,3})"
    r"(?P<value>[^\s\"'`,;<>(){}\[\]|]{6,255}|(?<=[\"'`])[^\s\"'`]{6,255}|[^\s\"'`]{6,128})",
    re.IGNORECASE,
)
# Names in markup, options of commands, and users with their passwords.
_STATED = re.compile(
    rf"<(?P<tag>(?:[a-z]{{1,20}}:)?{_NAMES})(?:\s[^<>]{{0,60}})?>\s{{0,3}}(?P<inside>[^<>\s]{{4,255}})</"
    r"|(?<![\w\-])(?:-u|--user|--proxy-user|-U)[ =][\"']?[\w.@+\-]{1,64}:(?P<user>[^\s\"'@]{3,128})(?![^\s\"'])"
    r"|(?<![\w\-])--(?:password|passwd|pass|passphrase|token|api-key|secret|client-secret|auth-token)"
    r"[ =][\"']?(?P<option>[^\s\"'`<>\-][^\s\"'`<>]{4,255})"
    r"|(?<![\w\-])sshpass -p ?[\"']?(?P<sshpass>[^\s\"']{4,128})"
    r"|(?<![\w\-])mysql(?:dump)? [^\n]{0,60}?-p(?P<mysql>[^\s\"'\-][^\s\"']{4,128})"
    r"|(?<![\w\-])machine \S{1,60} login \S{1,40} password (?P<netrc>\S{4,128})",
    re.IGNORECASE,
)
_ASSIGNMENTS = (
    "key", "secret", "token", "pass", "pwd", "credential", "contrase", "kennw", "senha", "hasło", "wachtw",
    "парол",
)  # fmt: skip
_NEAR = 96
_REQUESTS = re.compile(r"\b(?:curl|wget|httpie|https?|xh|ab|rclone|svn|lftp)\b", re.IGNORECASE)
# Before the word in a name, and from it to the end of the longest value.
_LONGEST_PREFIX = 32
_LONGEST_ASSIGNMENT = 420
_STATEMENT = (
    rf"<(?:[a-z]{{1,20}}:)?{_NAMES}|(?:-u|--user|--proxy-user|-U)[ =]|sshpass -p|mysql(?:dump)? |machine [^\s]"
    r"|--(?:password|passwd|pass|passphrase|token|api-key|secret|client-secret|auth-token)[ =]"
)
_STATEMENTS = ("</", "-u", "-U", "--", "sshpass", "mysql", "machine ")
_DIGIT = re.compile(r"\d")
# A text without digits has one of these where it holds a key or a password all the same.
_SIGNS = ("-----", "://", "_", "sk-", "eyJ", "AIza", "AKIA", "earer ", "asic ")
_PASSWORD = re.compile("pass|pwd|contrase|mot de|kennw|senha|hasło|wachtw|парол", re.IGNORECASE)
_ASSIGNED_TAIL = re.compile(r"[^\s\"'`,;<>(){}\[\]|]+")
_PLACEHOLDER = re.compile(
    r"(?:your|my|the|some|insert|enter|replace)[_\- ]?(?:[a-z]+[_\- ]?)*(?:here|key|token|secret|password|value)?"
    r"|(?:example|sample|dummy|placeholder|changeme|change[_-]me|redacted|masked|hidden|omitted|todo|test-?key|none|null"
    r"|undefined|true|false|string|required|optional|password|passwd|secret|token|empty)[\d!]{0,3}"
    r"|.{0,8}(?:[x*•.#]{4,}).{0,4}|[A-Z][A-Z_]{3,}(?:_[A-Z]+)+",
    re.IGNORECASE,
)
_PLACEHOLDER_WORDS = re.compile(
    r"(?:^|[_\-.])(?:example|your|placeholder|xxxx|redacted)(?:[_\-.]|$)", re.IGNORECASE
)
# Where a value is, rather than the value: a variable, a template, an address, a path, a call.
_REFERENCE = re.compile(
    r"<|\$(?-i:[A-Z_][A-Z0-9_]*|[a-z_.]+)$|\$\{?[A-Za-z_][\w.]*\}$|\$\(|\$\{|%[A-Za-z_]\w*%$|%\(|\{\{|\{[A-Za-z_][\w.]*\}?$|\{%|<%|#\{|process\.env|os\.(?:environ|getenv)"
    r"|(?:env|config|self|settings|secrets|var|local|data|vault|this|request|req|args|params|props|ctx)\.|!(?:Ref|Sub)|https?://"
    r"|arn:|(?:[\w.\-]+/){2,}|/[^/]+/[^/]+/|/[^/]*\.|\.{1,2}/|~/|[A-Za-z_][\w.]*\(",
    re.IGNORECASE,
)
_LEAST_ENTROPY_BITS = 2.8
_LEAST_PASSWORD_BITS = 2.0


class SecretDetector:
    """Findings of all forms; `kind` says whose key it is."""

    window = _WINDOW
    context = _CONTEXT

    def __init__(self, options: SecretsOptions) -> None:
        self._generic = options.generic
        self._allowed = frozenset(options.allow)

    def find(self, text: str, start: int) -> Sequence[Match]:
        found: list[Match] = []
        since = max(0, start - _CONTEXT)
        for form in FORMS if _has_mark(text) else ():
            for trigger in form.triggers:
                if trigger in text:
                    self._by_form(form, text, since, found)
                    break
        if self._generic:
            lowered = text.lower()
            if any(word in lowered for word in _ASSIGNMENTS):
                self._assigned(text, since, found)
            if any(word in text for word in _STATEMENTS):
                self._stated(text, since, found)
        return found

    def settled(self, text: str, start: int) -> int:
        """After white space: no form but a private key's has any, and of a pair only the value is shown or not."""
        at = max(text.rfind(" ", start), text.rfind("\n", start), text.rfind("\t", start)) + 1
        if at <= start:
            return 0
        pem = _PEM.search(text, max(0, len(text) - _WINDOW))
        return at if pem is None else min(at, pem.start())

    def _by_form(self, form: Form, text: str, since: int, found: list[Match]) -> None:
        for match in each_start(form.pattern, text, since):
            group = 1 if form.pattern.groups else 0
            if not _has_mark(match[0]) or (form.is_it is not None and not form.is_it(match[group])):
                continue
            if match[group] not in self._allowed:
                found.append(Match(match.start(group), match.end(group), form.kind, form.tail))

    def _assigned(self, text: str, since: int, found: list[Match]) -> None:
        for match in _near_words(text, since):
            value = _bare(match["value"], is_quoted=bool(match["quote"]))
            if value not in self._allowed and _is_secret(value, is_password=bool(_PASSWORD.search(match["name"]))):
                start = match.start("value")
                tail = _ASSIGNED_TAIL if len(match["value"]) == 255 else None
                found.append(Match(start, start + len(value), "generic", tail))

    def _stated(self, text: str, since: int, found: list[Match]) -> None:
        for rough in _pattern(_STATEMENT).finditer(text, since):
            match = _STATED.match(text, rough.start())
            if match is None:
                continue
            group = str(match.lastgroup)
            value = match[group].rstrip(".,;")
            if value in self._allowed or _REFERENCE.match(value) or _PLACEHOLDER.fullmatch(value):
                continue
            if group == "user" and not _REQUESTS.search(text, max(0, match.start() - _NEAR), match.start()):
                # Elsewhere it is a user and a group.
                continue
            found.append(Match(match.start(group), match.start(group) + len(value), "generic"))


@cache
def _pattern(rough: str) -> Any:
    """For RE2, in one pass and letter case apart: where something may be at all."""
    import re2

    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    return re2.compile(rough, options)


def _near_words(text: str, since: int) -> Iterator["re.Match[str]"]:
    """Each assignment whose name has one of the words in it."""
    at = since
    for word in _pattern("|".join(_ASSIGNMENTS)).finditer(text, since):
        at = max(at, word.start() - _LONGEST_PREFIX)
        until = word.end() + _LONGEST_ASSIGNMENT
        while (match := _ASSIGNED.search(text, at, until)) is not None and match.start() < word.end():
            yield match
            at = match.start() + 1
        at = max(at, word.end())


def _bare(value: str, *, is_quoted: bool) -> str:
    """A value without what ends its sentence, or its structure."""
    return value.rstrip(".?:") if is_quoted else value.rstrip(".?:,;)]}>|")


def _has_mark(text: str) -> bool:
    """Whether a text could be, or could have in it, one of the forms: most texts are told apart by this."""
    return _DIGIT.search(text) is not None or any(sign in text for sign in _SIGNS)


def _is_secret(value: str, *, is_password: bool) -> bool:
    """Whether a value looks made by chance rather than written: mixed characters, and no name or placeholder."""
    if len(value) < 6 or _REFERENCE.match(value):
        return False
    if len(value) < 32 and (
        _PLACEHOLDER.fullmatch(value) or (not is_password and _PLACEHOLDER_WORDS.search(value))
    ):
        return False
    has_digit = any(c.isdigit() for c in value)
    has_letter = any(c.isalpha() for c in value)
    has_sign = any(not c.isalnum() and c not in "._-" for c in value)
    if is_password:
        # Words joined by signs are names; what has a digit, or a sign beside capitals, was made up.
        is_made = has_digit or (has_sign and value != value.lower())
        return is_made and entropy_bits(value) >= _LEAST_PASSWORD_BITS
    is_mixed = has_letter and (has_digit or has_sign)
    return is_mixed and len(value) >= 8 and entropy_bits(value) >= _LEAST_ENTROPY_BITS


def entropy_bits(value: str) -> float:
    """Shannon's entropy of a character of `value`."""
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in (value.count(c) for c in set(value)))
