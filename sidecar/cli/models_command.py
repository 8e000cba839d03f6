"""`sidecar models`: the catalogue as a tenant may use it."""

import asyncio
from typing import TYPE_CHECKING

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options

if TYPE_CHECKING:
    from sidecar.models.api import ModelInfo

_NUMBERS = ("context", "output", "$/M in", "$/M out")


@click.command("models")
@click.option("-a", "--all", "has_unusable", is_flag=True, help="Also those that cannot be used, with the reason.")
@connection_options
@click.pass_obj
def command(invocation: Invocation, has_unusable: bool) -> int:
    """List the models: limits in tokens, prices in US dollars for a million tokens, health."""
    return asyncio.run(_models(invocation, has_unusable))


async def _models(invocation: Invocation, has_unusable: bool) -> int:
    from sidecar.cli.tables import table

    async with await invocation.client() as client:
        models = [m for m in await client.models() if has_unusable or m.unusable is None]
    if invocation.is_json:
        for model in models:
            invocation.json(model)
        return exits.OK
    columns: tuple[str, ...] = (
        "alias",
        "family",
        "quality",
        "context",
        "output",
        "$/M in",
        "$/M out",
        "regions",
        "health",
    )
    if has_unusable:
        columns = (*columns, "not usable because")
    table(columns, [_row(model, has_unusable) for model in models], numbers=_NUMBERS)
    return exits.OK


def _row(model: "ModelInfo", has_reason: bool) -> tuple[str, ...]:
    row: tuple[str, ...] = (
        model.alias,
        model.family,
        model.quality,
        f"{model.context_tokens:,}",
        f"{model.max_output_tokens:,}",
        _price(model.price_input_usd_per_mtok),
        _price(model.price_output_usd_per_mtok),
        ", ".join(model.regions),
        model.health,
    )
    return (*row, model.unusable or "") if has_reason else row


def _price(usd: float | None) -> str:
    return "?" if usd is None else f"{usd:g}"
