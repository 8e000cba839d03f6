"""Secrets: keys of the big providers by their published forms, tokens, private keys, and values assigned to names
that say so. Pure. Every pattern is bounded; what may be longer goes on by a tail."""

import math
import re
from collections.abc import Sequence

from sidecar.config.filters import SecretsOptions
from sidecar.response_formatter.filters.scanner import Match, each_start
from sidecar.response_formatter.filters.secret_forms import FORMS, Form

_WINDOW = 640
_CONTEXT = 160
_PEM = re.compile("-----[BE]")

_ASSIGNED = re.compile(
    r"(?<![A-Za-z])(?P<name>(?:api|secret|access|private|auth|encryption|signing|master|account|client)[_\-. ]?"
    r"(?:key|secret|token)s?|secrets?|(?:[a-z]{1,20}[_-])?(?:tokens?|passw(?:or)?ds?|passwd|pwd|passphrase)"
    r"|credentials?|passwort|contraseña|mot de passe)"
    r"(?:[_-][a-z]{1,20})?[\"'`*]{0,3}\s{0,3}(?:=>|:=|==|=|:|\bis\b|→)\s{0,3}[\"'`*]{0,3}"
    r"(?P<value>[^\s\"'`,;<>(){}\[\]|]{6,255})",
    re.IGNORECASE,
)
_ASSIGNMENTS = ("key", "secret", "token", "pass", "pwd", "credential", "contrase")
_DIGIT = re.compile(r"\d")
# A text without digits has one of these where it holds a key or a password all the same.
_SIGNS = ("-----", "://", "_", "sk-", "eyJ", "AIza", "AKIA", "earer ", "asic ")
_PASSWORD = re.compile("pass|pwd|contrase|mot de", re.IGNORECASE)
_ASSIGNED_TAIL = re.compile(r"[^\s\"'`,;<>(){}\[\]|]+")
_PLACEHOLDER = re.compile(
    r"(?:your|my|the|some|example|sample|dummy|placeholder|changeme|redacted|x{4,}|\*{3,}|\.{3}|•{3}|todo|test-?key"
    r"|none|null|undefined|true|false)(?![a-z])|.*(?:[x*•]{6,}|\.\.\.|your[_-]|example)",
    re.IGNORECASE,
)
# Where a value is, rather than the value: a variable, an address, a path.
_REFERENCE = re.compile(
    r"[$%{]|process\.env|os\.environ|env\.|config\.|self\.|settings\.|https?://|arn:|/[^/]+/[^/]+/|/[^/]*\.|\./",
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
        for match in each_start(_ASSIGNED, text, since):
            value = match["value"].rstrip(".?:")
            if value not in self._allowed and _is_secret(value, is_password=bool(_PASSWORD.search(match["name"]))):
                start = match.start("value")
                tail = _ASSIGNED_TAIL if len(match["value"]) == 255 else None
                found.append(Match(start, start + len(value), "generic", tail))


def _has_mark(text: str) -> bool:
    """Whether a text could be, or could have in it, one of the forms: most texts are told apart by this."""
    return _DIGIT.search(text) is not None or any(sign in text for sign in _SIGNS)


def _is_secret(value: str, *, is_password: bool) -> bool:
    """Whether a value looks made by chance rather than written: mixed characters, and no name or placeholder."""
    if _REFERENCE.match(value) or (len(value) < 32 and _PLACEHOLDER.match(value)):
        return False
    has_digit = any(c.isdigit() for c in value)
    has_letter = any(c.isalpha() for c in value)
    has_sign = any(not c.isalnum() and c not in "._-" for c in value)
    if is_password:
        return has_digit and len(value) >= 6 and entropy_bits(value) >= _LEAST_PASSWORD_BITS
    is_mixed = has_letter and (has_digit or has_sign)
    return is_mixed and len(value) >= 8 and entropy_bits(value) >= _LEAST_ENTROPY_BITS


def entropy_bits(value: str) -> float:
    """Shannon's entropy of a character of `value`."""
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in (value.count(c) for c in set(value)))
