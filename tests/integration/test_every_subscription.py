"""Every subscription of a running sidecar takes what fits its subject, and nothing else."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.adapters.nats.client.connection import Connection
from sidecar.app import App
from sidecar.config.settings import BedrockSettings, Settings
from sidecar.wire.matching import matcher
from tests.support.nats_server import Access

pytestmark = pytest.mark.nats


@pytest.fixture
async def connection(nats_access: Access, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Connection]:
    """That of a sidecar that runs in this process. Nobody is at its Bedrock."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "example")
    settings = Settings(
        nats=nats_access.settings(),
        bedrock=BedrockSettings(endpoint_url="http://127.0.0.1:9"),
        admin={"enabled": False},  # type: ignore[arg-type]
        retention={"requests_bytes": 1 << 27},  # type: ignore[arg-type]
    )
    app = App(settings)
    try:
        await app.start()
        assert app._mux is not None
        yield app._mux.connection
    finally:
        await app.stop()


def example(pattern: str) -> bytes:
    """A subject that fits."""
    return pattern.replace("*", "x").replace(">", "x.y").encode()


async def test_every_subscription_drops_what_does_not_fit_it(connection: Connection) -> None:
    subscriptions = list(connection._subscriptions)
    subjects = [subscription.subject for subscription in subscriptions]
    odd = [b"x", b"", b"llm.v1.get.globex.x\x0bw1 w1", b"_INBOX.x", b"$KV.LLM_CTL.lease.scheduler", b"\xff"]
    foreign = [*map(example, subjects), *odd]
    parser: Any = connection.client._ps
    expected = 0
    for subscription in subscriptions:
        assert subscription.sid is not None
        fits = matcher(subscription.subject)
        for subject in foreign:
            if not fits(subject) and b" " not in subject and subject:
                expected += 1
                await parser.parse(b"MSG %b %b 2\r\n{}\r\n" % (subject, subscription.sid))
        # Whoever calls the handler itself meets the same guard.
        subscription.handler(b"a b", b"", b"", b"{}")
        expected += 1
    # What others sent meanwhile fits: nothing of it was dropped.
    assert connection.misdelivered.count == expected
