"""What a text of another system may say to a tenant: its sense, without the names of our own side. Pure.

Bedrock, botocore and NATS put into their errors whom we are to them: accounts, roles, sessions, ARNs, keys, hosts,
subjects. Those are the operator's. What is taken out is handed back beside the text, for the operator's log.
"""

import re
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Any, NamedTuple

from sidecar.errors import BusRefused, BusUnavailable, Conflict, SidecarError

LONGEST_TEXT = 1_000
MOST_WITHHELD = 16
LONGEST_WITHHELD = 300
CREDENTIAL = "a credential"


class Redacted(NamedTuple):
    """`withheld`: what was taken out, in order, without credentials."""

    text: str
    withheld: tuple[str, ...] = ()


def redact(text: str) -> Redacted:
    """`text`, cut to `LONGEST_TEXT`, without what names our side of the call."""
    withheld: list[str] = []
    text = _one_line(text[:LONGEST_TEXT])
    for pattern, shown in _RULES:
        text = pattern.sub(_replacing(shown, withheld), text)
    return Redacted(text, tuple(withheld[:MOST_WITHHELD]))


def redact_value(value: Any) -> Any:
    """A detail of an error: numbers as they are, texts redacted, everything else by its parts."""
    if isinstance(value, str):
        return redact(value).text
    if isinstance(value, Mapping):
        return {redact(str(name)).text: redact_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [redact_value(part) for part in value]
    return value if isinstance(value, int | float | bool) or value is None else redact(str(value)).text


def told(error: SidecarError) -> str:
    """An error's message as a tenant may read it: what the bus says names subjects and servers."""
    return redact(error.message).text if isinstance(error, _OF_THE_BUS) else error.message


def without_credentials(text: str) -> str:
    """A text for the operator's log: on one line, bounded, and without what would let its reader in."""
    text = _one_line(text[:LONGEST_TEXT])
    return _SECRET.sub(CREDENTIAL, _USER_OF_URL.sub(r"\g<scheme>", text))


_OF_THE_BUS = (BusUnavailable, BusRefused, Conflict)
_Shown = str | Callable[[re.Match[str]], str | None]


def _replacing(shown: _Shown, withheld: list[str]) -> Callable[[re.Match[str]], str]:
    def replace(found: re.Match[str]) -> str:
        words = shown if isinstance(shown, str) else shown(found)
        if words is None:
            return found[0]
        if words != CREDENTIAL:
            withheld.append(without_credentials(found[0])[:LONGEST_WITHHELD])
        return words

    return replace


def _one_line(text: str) -> str:
    """Without control characters, which could forge lines of a log or steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


# By the resource types of the service authorization reference.
_OF_BEDROCK = {"guardrail": "the configured guardrail", "guardrail-profile": "the configured guardrail"}


def _arn(found: re.Match[str]) -> str:
    parts = found[0].replace("%3A", ":").replace("%3a", ":").replace("%2F", "/").replace("%2f", "/").split(":", 5)
    service, resource = (parts[2], parts[5]) if len(parts) == 6 else ("", "")
    if service == "bedrock":
        return _OF_BEDROCK.get(resource.partition("/")[0], "the configured model")
    return "the sidecar's role" if service in ("iam", "sts") else "a resource of the operator"


def _url(found: re.Match[str]) -> str | None:
    return None if _PUBLIC.match(found[0]) else "an address"


def _address(found: re.Match[str]) -> str | None:
    try:
        ip_address(found["ip"])
    except ValueError:
        return None
    return "an address"


# Repetitions are bounded, so that no text makes these slow.
_SECRET = re.compile(
    r"\b(?:Bearer\s+\S{1,4096}|eyJ[\w-]{8,4096}\.[\w.-]{1,4096}|(?:ABSK|bedrock-api-key-)[\w+/=-]{8,4096})"
    r"|(?<![A-Za-z0-9+/=])[A-Za-z0-9+/]{40}(?:[A-Za-z0-9+/]{40,4096})?={0,2}(?![A-Za-z0-9+/=])"
)
_USER_OF_URL = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]{1,20}://)[^\s/@]{1,300}@")
_PUBLIC = re.compile(r"https://(docs\.aws\.amazon\.com|aws\.amazon\.com)/[^@]*$")
_RULES: tuple[tuple[re.Pattern[str], _Shown], ...] = (
    (re.compile(r"\barn(?::|%3A)[^\s'\"`,;)\]}>]{1,1000}", re.IGNORECASE), _arn),
    (re.compile(r"\b[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s'\"`<>)\]}]{1,1000}"), _url),
    (_SECRET, CREDENTIAL),
    # Prefixes of unique ids as in the IAM user guide; a role's is followed by the session's name.
    (
        re.compile(r"\bA(?:KIA|SIA|IDA|ROA|IPA|NPA|NVA|GPA|BIA|CCA|PKA|SCA)[A-Z0-9]{8,}(?::[\w+=,.@-]{1,128})?"),
        "an id",
    ),
    (
        re.compile(
            r"\b(?:assumed-role|role|user(?!/assistant)|group|federated-user|instance-profile|inference-profile"
            r"|application-inference-profile|provisioned-model|imported-model|custom-model)/[\w+=,.@/:-]{1,300}"
        ),
        "a name of the operator",
    ),
    (
        re.compile(
            r"\b(?:User|Principal|Role|Account|Profile|Session|[Aa]ccount [Ii][Dd]|[Rr]ole(?:Name|_name|Arn|_arn)"
            r"|(?:[Rr]ole)?[Ss]ession(?:Name|_name)|[Aa]ccount(?:Id|_id))\s?[:=]\s?(?!(?:the|an?)\s)['\"]?[\w+=,.@/-]{1,300}"
        ),
        "a name of the operator",
    ),
    (re.compile(r"(?<![\w.-])\d{12}(?![\w-]|\.\d)|\b\d{4}-\d{4}-\d{4}\b"), "an account"),
    (
        re.compile(r"\b(?:vpce|vpc|subnet|eni|sg|i|eipassoc|rtb|acl)-[0-9a-f]{8,32}\b"),
        "a resource of the operator",
    ),
    (
        re.compile(
            r"(?<![\w.@-])(?!(?:docs\.)?aws\.amazon\.com)(?:[A-Za-z0-9_*-]{1,63}\.){1,10}"
            r"(?:amazonaws\.com(?:\.cn)?|api\.aws|amazonwebservices\.com|internal|local|localdomain|svc|lan|corp"
            r"|intranet|example|invalid|test|com|net|org|io)(?::\d{1,5})?(?![\w-]|\.\w)"
        ),
        "an address",
    ),
    (re.compile(r"(?<![\w.-])(?:[A-Za-z0-9_-]{1,63}\.){1,10}[A-Za-z0-9_-]{1,63}:\d{2,5}\b"), "an address"),
    (re.compile(r"(?<![\w.])(?P<ip>\d{1,3}(?:\.\d{1,3}){3})(?::\d{1,5})?(?![\w]|\.\d)"), _address),
    (
        re.compile(r"(?<![\w:])\[?(?P<ip>[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7})\]?(?::\d{1,5})?(?![\w:])"),
        _address,
    ),
    # The bus: whatever is not a tenant's own subject.
    (re.compile(r"(?<!\w)\$[A-Z]{1,8}\b[\w.$*>-]{0,500}|\b_INBOX[\w.$*>-]{0,500}"), "an internal subject"),
    (re.compile(r"\b[\w-]{1,64}(?:\.[\w-]{1,64}){0,3}\.v1\.(?:sys|log)\.[\w.*>-]{1,500}"), "an internal subject"),
    (
        re.compile(
            r"\b(?:KV|OBJ)_LLM_[\w-]{1,100}|\bLLM_(?:REQ|JOB|CTL|DEAD|CANCEL|CONFIG|TOOL|PROMPT|BLOB)\w{0,100}"
        ),
        "a stream",
    ),
)
