"""`sidecar drain`: what a pod's preStop hook runs inside the container."""

import http.client
import json
from pathlib import Path
from typing import Any

import click

from sidecar.cli import exits
from sidecar.cli.invocation import Invocation, printing_options
from sidecar.cli.settings_options import load_settings, settings_options
from sidecar.errors import BusUnavailable, Permanent

TIMEOUT_S = 10.0
LONGEST_ANSWER = 65_536
# Where a process that listens on all addresses is found on its own machine.
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


@click.command("drain")
@click.option("--host", envvar="SIDECAR_ADMIN__HOST", help="Of the admin endpoint; default the setting.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="SIDECAR_ADMIN__PORT",
    help="Of the admin endpoint; default the setting.",
)
@settings_options
@printing_options
@click.pass_obj
def command(
    invocation: Invocation, host: str | None, port: int | None, config: Path | None, assignments: tuple[str, ...]
) -> int:
    """Tell the sidecar on this machine to take no new jobs: POST /drain on its admin endpoint.

    What runs goes on and questions are answered until SIGTERM comes, or for jobs.linger_s where it does not.
    Exit 3 where no sidecar answers. Address and admin.token come from the settings of `sidecar run`.
    """
    status, said = 401, dict[str, Any]()
    if port is not None:
        # The settings take longer to read than all the rest, and a pod that ends waits for this.
        status, said = ask(host or "", port)
    if status == 401:
        admin = load_settings(config, assignments, invocation).admin
        status, said = ask(host or admin.host, port or admin.port, token=admin.token)
    if status != 200:
        raise Permanent(f"the sidecar refused to drain: HTTP {status}, {said.get('error', 'without a reason')}")
    if invocation.is_json:
        invocation.json(said)
    else:
        invocation.data(f"{said.get('status')}: {said.get('running')} jobs still run")
    return exits.OK


def ask(host: str, port: int, *, token: str | None = None) -> tuple[int, dict[str, Any]]:
    """Status and answer. Raises BusUnavailable where nobody answers, Permanent for an answer that is none."""
    found = _LOOPBACK.get(host, host)
    connection = http.client.HTTPConnection(found, port, timeout=TIMEOUT_S)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        connection.request("POST", "/drain", headers=headers)
        answer = connection.getresponse()
        said = json.loads(answer.read(LONGEST_ANSWER))
    except (OSError, http.client.HTTPException) as e:
        raise BusUnavailable(f"no sidecar answers on {found}:{port}: {e}; see admin.host and admin.port") from e
    except ValueError as e:
        raise Permanent(f"what answers on {found}:{port} is no sidecar") from e
    finally:
        connection.close()
    return answer.status, said if isinstance(said, dict) else {}
