"""`sidecar config`: what the settings are, and whether a file is valid."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options
from sidecar.cli.settings_options import load_settings, settings_options

if TYPE_CHECKING:
    from sidecar.config.settings import Settings

# From here on a pattern is worth a word: a megabyte of text takes more than the budget of costly work.
DEAR_US = 2.5
_HIDDEN = "********"
# Names of secrets, by their last word; an own filter may have any.
_SECRET = re.compile(
    r"(?:^|[_\-.])(?:pass(?:word|wd|phrase|code)?s?|pwd|tokens?|secrets?|seeds?|(?:api|access|private)?keys?|keys?"
    r"|credentials?|creds_content|auth|authorization|bearer|cookies?|dsn)$",
    re.IGNORECASE,
)
_NO_SECRET = frozenset(("max_output_tokens", "max_tokens", "context_tokens", "tls_key"))
# Whoever is named before a host, with a scheme before it, half of one, or none.
_WITH_PASSWORD = re.compile(
    r"(?P<before>(?<![^\s,])(?:[A-Za-z][A-Za-z0-9+.\-]*:?)?/{1,2})[^\s@,]+@|(?<![^\s,])[^\s@,]+:[^\s@,]+@"
)


@click.command("config")
@click.option("--check", "checked", type=click.Path(path_type=Path), help="Only check this file.")
@click.option("--changed", "is_short", is_flag=True, help="Only what differs from the defaults.")
@settings_options
@connection_options
@click.pass_obj
def command(
    invocation: Invocation, checked: Path | None, is_short: bool, config: Path | None, assignments: tuple[str, ...]
) -> int:
    """Show the effective settings (file, environment SIDECAR_<SECTION>__<KEY>, flags), or check a file.

    Secrets are hidden. Exit 2 with the field and the remedy where something is wrong.
    """
    settings = load_settings(checked or config, assignments, invocation)
    if checked is not None:
        from sidecar.coordinator.catalogue import Catalogue

        Catalogue(policy=settings.policy, regions=settings.bedrock.regions)
        for line in dear_patterns(settings):
            invocation.note(line)
        invocation.note(f"{checked} is valid")
        return exits.OK
    values = hide_secrets(settings.model_dump(mode="json", exclude_defaults=is_short))
    if invocation.is_json:
        invocation.json(values)
    else:
        for line in lines_of(values):
            invocation.data(line)
    return exits.OK


def dear_patterns(settings: "Settings") -> list[str]:
    """Patterns of blocklists that take long, with what was measured here."""
    from sidecar.config.filters import BlocklistOptions, parsed
    from sidecar.response_formatter.filters.blocklist import measured_us

    lines = []
    for name, entry in settings.policy.filters.items():
        options = parsed(entry.kind, entry.options) if entry.kind == "blocklist" else None
        for at, pattern in enumerate(options.patterns if isinstance(options, BlocklistOptions) else ()):
            rate_us = measured_us(pattern, options.max_match_chars)  # type: ignore[union-attr]
            if rate_us > DEAR_US:
                lines.append(
                    f"filters.{name}.options.patterns[{at}] takes up to {rate_us:.0f} µs of CPU a character here:"
                    " a text of 1 MB may be refused for it; shorten what it repeats"
                )
    return lines


def hide_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """The same settings with secrets and passwords in URLs replaced, lists and own filters' options too."""
    return {name: _hidden(name, value) for name, value in values.items()}


def _hidden(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET.search(name) and name not in _NO_SECRET:
        return _HIDDEN if value else value
    if isinstance(value, dict):
        return hide_secrets(value)
    if isinstance(value, list | tuple):
        return [_hidden("", item) for item in value]
    return _WITH_PASSWORD.sub(_without_user, value) if isinstance(value, str) else value


def _without_user(found: "re.Match[str]") -> str:
    return f"{found['before'] or ''}{_HIDDEN}@"


def lines_of(values: dict[str, Any], path: str = "") -> list[str]:
    """The settings as `section.key = value`, one a line, in the form that `--set` takes."""
    from sidecar.models.codec import encode

    lines = []
    for name, value in values.items():
        place = f"{path}.{name}" if path else name
        if isinstance(value, dict) and value:
            lines += lines_of(value, place)
        elif value is not None:
            lines.append(f"{place} = {encode(value).decode()}")
    return lines
