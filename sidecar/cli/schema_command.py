"""`sidecar schema`: the protocol for other languages, made from the models."""

from pathlib import Path

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, printing_options


@click.command("schema")
@click.argument("name", required=False)
@click.option("--write", "is_write", is_flag=True, help="Make the files under ROOT/schemas anew.")
@click.option(
    "--check", "is_check", is_flag=True, help="Exit 1 where the files under ROOT differ from the models."
)
@click.option("--root", type=click.Path(path_type=Path, file_okay=False), default=Path(), show_default="here")
@printing_options
@click.pass_obj
def command(invocation: Invocation, name: str | None, is_write: bool, is_check: bool, root: Path) -> int:
    """List the schemas, print the one of NAME, or write or check their files."""
    if is_write and is_check:
        raise click.UsageError("--write and --check exclude each other")
    from sidecar import schema

    if is_check:
        return _check(invocation, schema.check(root))
    if is_write:
        for path in schema.write(root):
            invocation.data(path)
        return exits.OK
    if name is None:
        for known in schema.names():
            invocation.data(known)
        return exits.OK
    if name not in schema.names():
        raise click.UsageError(f"there is no schema {name!r}: use one of {', '.join(schema.names())}")
    invocation.json(schema.schema(name))
    return exits.OK


def _check(invocation: Invocation, drifts: list[str]) -> int:
    for drift in drifts:
        invocation.data(drift)
    if drifts:
        invocation.note("the files differ from the models: write them anew by `sidecar schema --write`")
    return exits.FAILED if drifts else exits.OK
