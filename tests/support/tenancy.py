"""Tenants kept apart by the configuration that `sidecar nats-config` prints, and one that tries to get out."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from sidecar.cli.nats_config import password_variable
from tests.support.process import SidecarProcess
from tests.support.stranger import Stranger

QUIET_S = 0.5
NOBODY = 0


class Tenancy(NamedTuple):
    mode: str
    server_url: str
    sidecar: SidecarProcess

    def url(self, user: str) -> str:
        return self.server_url.replace("nats://", f"nats://{user}:p@")


class Intruder(Stranger):
    """A tenant's connection, and what the server refused it."""

    def __init__(self, connection: Client, tenant: str, refused: list[str]) -> None:
        super().__init__(connection, tenant)
        self.refused = refused

    async def asks_in_vain(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Fail unless the server refuses a request, or says that nobody is there to answer it."""
        known = len(self.refused)
        try:
            reply = await self.connection.request(subject, payload, timeout=QUIET_S, headers=headers)
        except NoRespondersError:
            return
        except NatsTimeoutError:
            await self.connection.flush()
            assert any(f'"{subject.lower()}"' in text for text in self.refused[known:]), (subject, self.refused)
            return
        raise AssertionError(f"{subject} was answered: {reply.data!r}")

    async def error_of(self, subject: str, payload: bytes) -> int:
        """JetStream's error code, or `NOBODY`. Fails for an answer without error."""
        try:
            reply = await self.connection.request(subject, payload, timeout=QUIET_S)
        except (NatsTimeoutError, NoRespondersError):
            return NOBODY
        code: int = json.loads(reply.data)["error"]["err_code"]
        return code

    async def hears_nothing(self, *subjects: str) -> list[Msg]:
        """What comes on these subjects, to be looked at later; empty if all is well."""
        heard: list[Msg] = []

        async def hear(message: Msg) -> None:
            heard.append(message)

        for subject in subjects:
            await self.connection.subscribe(subject, cb=hear)
        await self.connection.flush()
        return heard


@asynccontextmanager
async def connected(tenancy: Tenancy, tenant: str) -> AsyncIterator[Intruder]:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        refused.append(str(error))

    connection = await nats.connect(
        tenancy.url(tenant), inbox_prefix=f"_INBOX_{tenant}".encode(), error_cb=note, max_reconnect_attempts=-1
    )
    try:
        yield Intruder(connection, tenant, refused)
    finally:
        await connection.close()


def configured(mode: str) -> str:
    options = ("--tenants", "acme,globex", "--mode", mode, "--operator")
    command = (sys.executable, "-m", "sidecar", "nats-config", *options)
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    for user in ("sidecar", "acme", "globex", "operator"):
        text = text.replace(f"${password_variable(user)}", '"p"')
    assert "$LLM" not in text
    # Somebody of the same account who is no tenant.
    return text.replace("  users: [\n", '  users: [\n    { user: other, password: "p" }\n', 1)
