"""`sidecar config`: what the settings are, and whether a file is valid."""

from pathlib import Path
from typing import Any

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options
from sidecar.cli.settings_options import load_settings, settings_options

_HIDDEN = "********"
_SECRET = ("password", "token", "secret", "seed")


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
        invocation.note(f"{checked} is valid")
        return exits.OK
    values = hide_secrets(settings.model_dump(mode="json", exclude_defaults=is_short))
    if invocation.is_json:
        invocation.json(values)
    else:
        for line in lines_of(values):
            invocation.data(line)
    return exits.OK


def hide_secrets(values: dict[str, Any]) -> dict[str, Any]:
    """The same settings with secrets and passwords in URLs replaced."""
    hidden: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            hidden[name] = hide_secrets(value)
        elif value is not None and name in _SECRET:
            hidden[name] = _HIDDEN
        elif isinstance(value, str) and "://" in value and "@" in value:
            hidden[name] = ",".join(_without_password(url) for url in value.split(","))
        else:
            hidden[name] = value
    return hidden


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    before, separator, host = rest.rpartition("@")
    return f"{scheme}://{_HIDDEN}@{host}" if separator and before else url


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
