"""`sidecar prompts`: the templates in the bucket `LLM_PROMPT`; with the rights of an operator."""

import asyncio
from typing import BinaryIO

import click

from sidecar.cli.invocation import Invocation, connection_options
from sidecar.models.prompt import SHARED


@click.group("prompts")
def command() -> None:
    """Store, show and list prompt templates, which requests name in place of messages.

    Templates are the tenant's own (--tenant), or with --shared everybody's; a tenant's own goes before a shared
    one of its name. A version that is stored never changes: store the next one.
    """


@command.command("put")
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@click.option("--version", help="One to three numbers, such as 1.2.0; the next whole number unless given.")
@click.option("--shared", "is_shared", is_flag=True, help="For all tenants.")
@connection_options
@click.pass_obj
def put(invocation: Invocation, name: str, file: BinaryIO, version: str | None, is_shared: bool) -> int:
    """Check a template (JSON, `-` for stdin) and store it as a new version, which is printed."""
    from sidecar.cli.prompt_store import put_template

    document = file.read()
    return asyncio.run(put_template(invocation, _scope(invocation, is_shared), name, version, document))


@command.command("ls")
@click.option("--all", "is_all", is_flag=True, help="Of all tenants.")
@connection_options
@click.pass_obj
def list_all(invocation: Invocation, is_all: bool) -> int:
    """List the templates that the tenant may use, its own first."""
    from sidecar.cli.prompt_store import list_templates

    return asyncio.run(list_templates(invocation, None if is_all else (invocation.tenant, SHARED)))


@command.command("show")
@click.argument("name")
@click.option("--version", help="The highest unless given.")
@click.option("--shared", "is_shared", is_flag=True, help="Everybody's, not the tenant's own.")
@connection_options
@click.pass_obj
def show(invocation: Invocation, name: str, version: str | None, is_shared: bool) -> int:
    """Print a template as it is stored."""
    from sidecar.cli.prompt_store import show_template

    return asyncio.run(show_template(invocation, _scope(invocation, is_shared), name, version))


@command.command("rm")
@click.argument("name")
@click.option("--version", help="Only this one; all of them unless given.")
@click.option("--shared", "is_shared", is_flag=True, help="Everybody's, not the tenant's own.")
@connection_options
@click.pass_obj
def remove(invocation: Invocation, name: str, version: str | None, is_shared: bool) -> int:
    """Take a template away. Jobs that wait with it still run, as long as its past is kept (ten revisions)."""
    from sidecar.cli.prompt_store import remove_template

    return asyncio.run(remove_template(invocation, _scope(invocation, is_shared), name, version))


def _scope(invocation: Invocation, is_shared: bool) -> str:
    return SHARED if is_shared else invocation.tenant
