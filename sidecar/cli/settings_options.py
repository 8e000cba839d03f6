"""Options that set settings, for the commands that are a sidecar or look at one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from sidecar.cli.invocation import Invocation

if TYPE_CHECKING:
    from sidecar.config.settings import Settings

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = (
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        envvar="SIDECAR_CONFIG",
        help="TOML file; else SIDECAR_CONFIG.",
    ),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="SECTION.KEY=VALUE",
        help="One setting, over file and environment; VALUE is JSON or else text.",
    ),
)


def settings_options(command: F) -> F:
    """`--config` and `--set`, as parameters `config` and `assignments`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def overrides(assignments: Sequence[str], invocation: Invocation | None = None) -> dict[str, Any]:
    """Nested settings out of `a.b=value` texts and the options of the connection. Raises click.UsageError."""
    nested: dict[str, Any] = {}
    if invocation is not None:
        given = {"url": invocation.server, "context": invocation.context, "creds": invocation.creds}
        nested["nats"] = {name: value for name, value in given.items() if value is not None}
        defaults = Invocation()
        for name in ("prefix", "connect_timeout_s"):
            if getattr(invocation, name) != getattr(defaults, name):
                nested["nats"][name] = getattr(invocation, name)
    for assignment in assignments:
        path, separator, text = assignment.partition("=")
        *sections, key = path.strip().split(".")
        if not separator or not key or not all(sections):
            raise click.BadParameter(f"{assignment!r}: write SECTION.KEY=VALUE", param_hint="--set")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise click.BadParameter(f"{assignment!r}: {section} is a value already", param_hint="--set")
        place[key] = _value(text.strip())
    return {name: value for name, value in nested.items() if value != {}}


def load_settings(config: Path | None, assignments: Sequence[str], invocation: Invocation) -> "Settings":
    """The settings of this process. Raises StartupError with the remedy, click.UsageError."""
    from sidecar.config.settings import load

    return load(config, overrides(assignments, invocation))


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return text
