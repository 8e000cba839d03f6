"""`sidecar nats-config`: what the NATS server must say so that tenants are kept apart."""

import click

from sidecar.cli.invocation import Invocation, printing_options


@click.command("nats-config")
@click.option("--tenants", required=True, metavar="NAME,…", help="Tenants, comma separated.")
@click.option(
    "--mode",
    type=click.Choice(["accounts", "users"]),
    default="accounts",
    show_default=True,
    help="An account for each tenant, or users of one account.",
)
@click.option("--prefix", default="llm", show_default=True, help="As the setting nats.prefix.")
@printing_options
@click.pass_obj
def command(invocation: Invocation, tenants: str, mode: str, prefix: str) -> None:
    """Print a part of nats-server's configuration: include it, or paste it.

    Passwords are read by the server from its environment: LLM_PASSWORD_SIDECAR and LLM_PASSWORD_<TENANT>.
    """
    from sidecar.cli.nats_config import render

    names = tuple(name.strip() for name in tenants.split(",") if name.strip())
    invocation.data(render(names, mode="users" if mode == "users" else "accounts", prefix=prefix))
    if mode == "users":
        invocation.note("users of one account are the weaker way: docs/deploy.md says what a hostile one can do")
