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
@click.option(
    "--dashboard", "is_watched", is_flag=True, help="With a user `dashboard` that sees all and changes nothing."
)
@click.option(
    "--tenant-dashboards",
    "are_tenants_watched",
    is_flag=True,
    help="With users `<tenant>-dashboard` that see one tenant's jobs and change nothing.",
)
@click.option(
    "--shared-tools", "has_shared_tools", is_flag=True, help="With a user `shared` that provides tools for all."
)
@click.option(
    "--operator",
    "has_operator",
    is_flag=True,
    help="With a user `operator` that pauses, cancels and runs again jobs of all tenants.",
)
@click.option("--prefix", default="llm", show_default=True, help="As the setting nats.prefix.")
@printing_options
@click.pass_obj
def command(
    invocation: Invocation,
    tenants: str,
    mode: str,
    is_watched: bool,
    are_tenants_watched: bool,
    has_shared_tools: bool,
    has_operator: bool,
    prefix: str,
) -> None:
    """Print a part of nats-server's configuration: include it, or paste it.

    Passwords are read by the server from its environment: LLM_PASSWORD_SIDECAR and LLM_PASSWORD_<TENANT>;
    with dashboards also LLM_PASSWORD_DASHBOARD and LLM_PASSWORD_<TENANT>_DASHBOARD, with shared tools also
    LLM_PASSWORD_SHARED, with an operator also LLM_PASSWORD_OPERATOR.
    """
    from sidecar.cli.nats_config import Watchers, render

    names = tuple(name.strip() for name in tenants.split(",") if name.strip())
    watchers = Watchers(
        all_tenants=is_watched,
        each_tenant=are_tenants_watched,
        shared_tools=has_shared_tools,
        operator=has_operator,
    )
    invocation.data(
        render(names, mode="users" if mode == "users" else "accounts", prefix=prefix, watchers=watchers)
    )
    if mode == "users":
        invocation.note("users of one account are the weaker way: docs/deploy.md says what a hostile one can do")
