"""The server in memory answers like nats-server, to the byte but for times: what the real adapters lean on."""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.adapters.nats.client.connection import Connection
from sidecar.adapters.nats.client.mux import Mux
from sidecar.adapters.nats.intake import NatsIntake
from sidecar.adapters.nats.streams.topology import streams
from sidecar.errors import BusUnavailable
from sidecar.models.subjects import Subjects
from sidecar.ports.bus import Lane
from sidecar.runtime.lifecycle import SystemClock
from tests.support.bus_world import bus_settings
from tests.support.jetstream.link import connect, disconnect
from tests.support.jetstream.server import FakeJetStream
from tests.support.nats_server import AccountPool, no_environment

pytestmark = pytest.mark.nats

STREAMS = ("KV_LLM_JOB", "LLM_REQ", "LLM_SPEND")
DOCUMENT, OTHER = "$KV.LLM_JOB.acme.j1", "$KV.LLM_JOB.acme.j2"
EVENT, LANE, SPENT = "llm.v1.log.acme.j1.delta", "llm.v1.request.acme.batch", "llm.v1.spend.acme.20261122"
EXPECTED = "Nats-Expected-Last-Subject-Sequence"
# What no two servers say alike.
_OWN = ("created", "ts", "cluster", "first_ts", "last_ts", "num_deleted", "num_subjects", "time", "metadata")
_TIME = re.compile(rb"Nats-Time-Stamp: [^\r]*")

NUMBERS = count(1)

Request = tuple[str, dict[str, str], bytes]
Answers = list[tuple[bytes, Any]]


def shown(payload: bytes) -> Any:
    """A payload with what is each server's own taken out."""
    if not payload.startswith(b"{"):
        return payload
    body = msgspec.json.decode(payload)
    for part in (body, body.get("config") or {}, body.get("state") or {}, body.get("message") or {}):
        for name in _OWN:
            part.pop(name, None)
    # Texts of one number differ between kinds of storage.
    if (body.get("error") or {}).get("err_code") == 10057:
        del body["error"]["description"]
    return body


async def ask(mux: Mux, request: Request) -> Answers | str:
    subject, headers, payload = request
    is_many = b'"batch"' in payload or b'"multi_last"' in payload
    answers: Answers = []
    try:
        async with aclosing(mux.request_many(subject, payload, headers=headers)) as replies:
            async for reply in replies:
                answers.append((_TIME.sub(b"", reply.raw_headers), shown(reply.payload)))
                if not is_many or reply.status is not None:
                    break
    except BusUnavailable as e:
        return str(e.details.get("status"))
    return answers


def named(text: str, number: int) -> str:
    """With names of streams and subjects that are one example's own."""
    return text.replace("LLM_", f"N{number}_").replace("llm.v1.", f"n{number}.v1.")


async def create_streams(mux: Mux, number: int) -> None:
    for spec in streams(bus_settings()):
        if spec.name in STREAMS:
            config = {"name": spec.name, **spec.config, "max_bytes": 1 << 20}
            if spec.name == "LLM_REQ":
                config["max_msgs_per_subject"] = 3
            body = msgspec.json.decode(named(msgspec.json.encode(config).decode(), number))
            await mux.api(f"STREAM.CREATE.{body['name']}", body)


@pytest.fixture
async def both(nats_server: AccountPool) -> AsyncIterator[tuple[Mux, Mux]]:
    """A real server and one in memory, with the same streams."""
    connection = Connection(nats_server.take().settings(), environment=no_environment)
    await connection.start()
    real = Mux(connection, timeout_s=20.0)
    await real.start()
    server = FakeJetStream(SystemClock())
    server.api.streams.clear()
    fake = await connect(server, "one")
    yield real, fake
    # The server counts every stream's reserved bytes together, over all accounts.
    for name in (await real.api("STREAM.NAMES"))["streams"]:
        await real.api(f"STREAM.DELETE.{name}")
    for mux in (real, fake):
        await disconnect(mux)


def api(below: str, **body: Any) -> Request:
    return f"$JS.API.{below}", {}, msgspec.json.encode(body) if body else b""


COUNTS = st.tuples(
    st.just(SPENT),
    st.fixed_dictionaries(
        {},
        optional={
            "Nats-Incr": st.sampled_from(["1", "-5", "+3", "x"]),
            "Nats-Msg-Id": st.sampled_from(["a", "b"]),
        },
    ),
    st.sampled_from([b"", b"", b"one"]),
)


def fence(seq: str, subject: str | None) -> dict[str, str]:
    return {EXPECTED: seq, **({f"{EXPECTED}-Subject": subject} if subject else {})}


# Few at a time: which of several faults a server names first is nobody's business.
HEADERS = st.lists(
    st.one_of(
        st.builds(fence, st.sampled_from("0123x"), st.sampled_from([None, DOCUMENT, OTHER, "$KV.LLM_JOB.acme.*"])),
        st.builds(lambda seq: {"Nats-Expected-Last-Sequence": seq}, st.sampled_from("012")),
        st.builds(
            lambda ttl: {"Nats-TTL": ttl}, st.sampled_from(["60", "1h", "never", "0", "-1", "500ms", "x", ""])
        ),
        st.builds(lambda rollup: {"Nats-Rollup": rollup}, st.sampled_from(["sub", "all", "bogus"])),
        st.builds(lambda message_id: {"Nats-Msg-Id": message_id}, st.sampled_from("ab")),
        st.builds(lambda stream: {"Nats-Expected-Stream": stream}, st.sampled_from(["KV_LLM_JOB", "LLM_REQ"])),
        st.builds(lambda operation: {"KV-Operation": operation}, st.sampled_from(["DEL", "PURGE"])),
    ),
    max_size=2,
).map(lambda parts: {name: value for part in parts for name, value in part.items()})
WRITES = st.tuples(
    st.sampled_from([DOCUMENT, OTHER, EVENT, LANE, f"{DOCUMENT}.journal", "$KV.LLM_JOB.acme"]),
    HEADERS,
    st.sampled_from([b"", b"one", b"two" * 50]),
)
PATTERNS = st.sampled_from([DOCUMENT, EVENT, LANE, "$KV.LLM_JOB.>", "$KV.LLM_JOB.acme.*", ">", "no.*", "llm.v1.>"])
STREAM = st.sampled_from([*STREAMS, "NOPE"])
SEQ = st.integers(0, 8)
BATCH = st.fixed_dictionaries(
    {"batch": st.integers(1, 5)},
    optional={"next_by_subj": PATTERNS, "seq": st.integers(1, 8), "max_bytes": st.sampled_from([1, 300, 10_000])},
)
READS = st.one_of(
    st.builds(
        lambda s, subject: api(f"DIRECT.GET.{s}.{subject}"), STREAM, st.sampled_from([DOCUMENT, EVENT, LANE])
    ),
    st.builds(lambda s, seq: api(f"DIRECT.GET.{s}", seq=seq), STREAM, SEQ),
    st.builds(lambda s, p: api(f"DIRECT.GET.{s}", last_by_subj=p), STREAM, PATTERNS),
    st.builds(lambda s, p, seq: api(f"DIRECT.GET.{s}", next_by_subj=p, seq=seq), STREAM, PATTERNS, SEQ),
    st.builds(lambda s, body: api(f"DIRECT.GET.{s}", **body), STREAM, BATCH),
    st.builds(
        lambda s, some: api(f"DIRECT.GET.{s}", multi_last=some, max_bytes=10_000),
        STREAM,
        st.lists(PATTERNS, min_size=1, max_size=3, unique=True),
    ),
    st.builds(lambda s, seq: api(f"STREAM.MSG.GET.{s}", seq=seq), STREAM, st.integers(1, 8)),
    st.builds(lambda s, p: api(f"STREAM.MSG.GET.{s}", last_by_subj=p), STREAM, PATTERNS),
    st.builds(lambda s, p, seq: api(f"STREAM.MSG.GET.{s}", next_by_subj=p, seq=seq), STREAM, PATTERNS, SEQ),
    st.builds(lambda s, seq: api(f"STREAM.MSG.DELETE.{s}", seq=seq, no_erase=True), STREAM, st.integers(1, 8)),
    st.builds(lambda s, p: api(f"STREAM.PURGE.{s}", filter=p), STREAM, st.sampled_from([DOCUMENT, EVENT, LANE])),
    st.builds(lambda s: api(f"STREAM.INFO.{s}"), STREAM),
    st.builds(lambda s, p: api(f"STREAM.INFO.{s}", subjects_filter=p), STREAM, PATTERNS),
    st.builds(lambda p: api("STREAM.NAMES", subject=p), PATTERNS),
)


@given(requests=st.lists(st.one_of(WRITES, COUNTS, READS), min_size=5, max_size=40))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
async def test_a_server_in_memory_answers_like_a_real_one(both: tuple[Mux, Mux], requests: list[Request]) -> None:
    real, fake = both
    number = next(NUMBERS)
    for mux in both:
        await create_streams(mux, number)
    for subject, headers, payload in requests:
        request = (
            named(subject, number),
            {name: named(value, number) for name, value in headers.items()},
            named(payload.decode(), number).encode(),
        )
        assert await ask(fake, request) == await ask(real, request), request


async def test_heads_of_stored_messages_are_told_alike(both: tuple[Mux, Mux]) -> None:
    told: list[list[tuple[int, str, int, str | None, str | None]]] = []
    subjects = Subjects()
    (spec,) = [spec for spec in streams(bus_settings()) if spec.name == "LLM_REQ"]
    for mux in both:
        await mux.api("STREAM.CREATE.LLM_REQ", {"name": "LLM_REQ", **spec.config})
        intake = NatsIntake(mux, subjects)
        first = 0
        for n in range(7):
            lane = Lane("acme" if n % 3 else "globex", "batch")
            headers = {"Llm-Job-Id": f"h{n}", "Llm-Deadline": "2026-12-01T10:00:00Z"} if n % 2 else {}
            seq = await intake.submit(lane, b"x" * (n * 10), headers)
            first = first or seq
        heads: list[tuple[int, str, int, str | None, str | None]] = []
        for tenant, last in (("acme", seq), (None, seq - 2)):
            async with aclosing(intake.heads(first=first + 1, last=last, tenant=tenant)) as parts:
                async for part in parts:
                    heads += [
                        (bell.seq - first, bell.lane.tenant, bell.size, bell.job_id, bell.deadline)
                        for bell in (head.bell for head in part)
                    ]
        told.append(heads)
        answer = await mux.api("STREAM.INFO.LLM_REQ")
        assert answer["state"]["consumer_count"] == 0
    assert told[0] == told[1]
    assert len(told[0]) == 4 + 4
