"""What `doctor` found out: one finding a question, and what they mean together. Pure."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

from sidecar.cli import exits

Level = Literal["ok", "warn", "fail"]


class Finding(NamedTuple):
    """`remedy` says what to do where something is to be done."""

    check: str
    level: Level
    text: str
    remedy: str = ""


NATS = "NATS connection"
"""The check whose failure means that nothing was reachable at all."""


def exit_code(findings: Iterable[Finding]) -> int:
    """0 without a failure (warnings are none), 3 when NATS could not be reached, else 1."""
    failed = {finding.check for finding in findings if finding.level == "fail"}
    if NATS in failed:
        return exits.UNREACHABLE
    return exits.FAILED if failed else exits.OK
