"""The client on a real NATS server, against a stand-in for the sidecar that speaks the protocol."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from sidecar.client import JobFailed, QueueFull, RateLimited, SidecarClient, StrictClient, UnknownJob
from sidecar.client import client as client_module
from sidecar.errors import AccessDenied, BusUnavailable, CallTimeout, InvalidRequest, JobCancelled, Permanent
from tests.support.fake_sidecar import RETRY_AFTER_S, FakeJob, FakeSidecar
from tests.support.nats_server import Access, Server, make_server, running

pytestmark = pytest.mark.nats

WAIT_S = 30.0


@pytest.fixture
async def fake(nats_access: Access) -> AsyncIterator[FakeSidecar]:
    sidecar = FakeSidecar()
    await sidecar.start(nats_access.url)
    yield sidecar
    await sidecar.stop()


@pytest.fixture
async def client(nats_access: Access, fake: FakeSidecar) -> AsyncIterator[SidecarClient]:
    async with await SidecarClient.connect(
        nats_access.url, tenant="acme", connect_timeout_s=WAIT_S, request_timeout_s=WAIT_S
    ) as connected:
        yield connected


def answering(sidecar: FakeSidecar, script: Callable[[FakeJob], Awaitable[None]]) -> None:
    async def on_request(job: FakeJob, _: dict[str, Any]) -> None:
        await script(job)

    sidecar._on_request = on_request


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def stream_two(job: FakeJob) -> None:
    await job.say("status", {"state": "running", "model": "m"})
    await job.delta("Jet")
    await job.delta("Stream")
    await job.result("JetStream")


async def test_a_job_is_followed_to_its_result_without_replay(client: SidecarClient, fake: FakeSidecar) -> None:
    answering(fake, stream_two)
    job = await client.submit("What?", stream=True, job_id="one")
    seen = [event async for event in job.events()]
    assert [(e.type, e.n) for e in seen] == [("status", 1), ("delta", 2), ("delta", 3), ("result", 4)]
    assert (await job.result(timeout_s=WAIT_S)).text == "JetStream"
    assert not fake.asked
    subject, request, headers = fake.requests[0]
    assert subject == "llm.v1.request.acme.interactive"
    assert request == {"messages": [{"role": "user", "content": "What?"}], "stream": True}
    assert headers["Llm-Job-Id"] == "one"
    assert headers["Nats-Msg-Id"] == "acme:one"


async def test_text_and_result_can_be_read_by_several_and_again(client: SidecarClient, fake: FakeSidecar) -> None:
    job = await client.submit("What?", stream=True)

    async def text() -> str:
        return "".join([piece async for piece in job.text()])

    readers = [asyncio.ensure_future(text()) for _ in range(3)]
    results = [asyncio.ensure_future(job.result(timeout_s=WAIT_S)) for _ in range(2)]
    await stream_two(fake.job(job.id))
    assert await asyncio.gather(*readers) == ["JetStream"] * 3
    assert {r.text for r in await asyncio.gather(*results)} == {"JetStream"}
    assert await text() == "JetStream"


async def test_somebody_else_can_follow_from_any_place(client: SidecarClient, fake: FakeSidecar) -> None:
    await stream_two(fake.job("old"))
    seen = [event async for event in client.job("old").events(after=(1, 2))]
    assert [e.n for e in seen] == [3, 4]
    stored = [event async for event in client.replay("old")]
    assert [e.n for e in stored] == [1, 2, 3, 4]


async def test_lost_doubled_and_stale_messages_do_not_show(client: SidecarClient, fake: FakeSidecar) -> None:
    job = await client.submit("What?", stream=True)
    other = fake.job(job.id)
    await other.delta("void")
    first = await other.say("delta", {"index": 0, "text": "a"}, attempt=2)
    await other.tell("delta", first)
    await other.say("delta", {"index": 0, "text": "b"}, attempt=2, live=False)
    await other.say("delta", {"index": 0, "text": "c"}, attempt=2)
    await other.say("delta", {"index": 0, "text": "stale"}, attempt=1, n=2, stored=False)
    await other.result("abc", attempt=2)
    seen = [event async for event in job.events()]
    assert [(e.attempt, e.n) for e in seen] == [(1, 1), (2, 1), (2, 2), (2, 3), (2, 4)]


async def test_a_result_that_nobody_heard_is_found(client: SidecarClient, fake: FakeSidecar) -> None:
    job = await client.submit("What?")
    await fake.job(job.id).result("quiet", live=False)
    assert (await job.result(timeout_s=WAIT_S)).text == "quiet"
    again = client.job(job.id)
    assert [e.type async for e in again.events()] == ["result"]


async def test_ask_returns_failures_as_results(client: SidecarClient, fake: FakeSidecar) -> None:
    async def fail(job: FakeJob) -> None:
        error = {"code": "throttled", "message": "slow down", "retryable": True, "details": {}}
        await job.result(state="failed", data={"error": error})

    answering(fake, fail)
    result = await client.ask("What?", wait_s=WAIT_S)
    assert result.state == "failed"
    with pytest.raises(JobFailed, match="slow down"):
        result.raise_for_state()


@pytest.mark.parametrize("question", ["get", "jobs", "replay", "cancel", "events", "result"])
async def test_what_was_refused_as_too_much_is_asked_again(
    client: SidecarClient, fake: FakeSidecar, question: str
) -> None:
    job = client.job("j")
    await fake.job("j").result("whole", live=False)
    fake.refusals = 2
    if question == "get":
        assert (await job.state()).state == "succeeded"
    elif question == "jobs":
        assert [state.job async for state in client.jobs()] == ["j"]
    elif question == "replay":
        assert [event.type async for event in client.replay("j")] == ["result"]
    elif question == "cancel":
        assert (await job.cancel()).state == "cancelled"
    elif question == "events":
        assert [event.type async for event in job.events()] == ["result"]
    else:
        assert (await job.result(timeout_s=WAIT_S)).text == "whole"
    assert fake.refusals == 0


async def test_a_refusal_that_outlasts_the_time_to_answer_is_raised(
    client: SidecarClient, fake: FakeSidecar
) -> None:
    fake.refusals = 10**6
    client.request_timeout_s = 0.3
    await fake.job("j").result("whole", live=False)
    with pytest.raises(RateLimited) as refused:
        await client.get("j")
    assert (refused.value.code, refused.value.retry_after, refused.value.is_retryable) == (
        "rate_limited", RETRY_AFTER_S, True,
    )  # fmt: skip
    with pytest.raises(RateLimited):
        [event async for event in client.replay("j")]


@pytest.mark.parametrize("kind", ["status", "delta", "result"])
async def test_an_acknowledgement_aimed_at_a_jobs_subject_is_no_event(
    client: SidecarClient, fake: FakeSidecar, kind: str
) -> None:
    job = await client.submit("What?", stream=True)
    await fake.job(job.id).tell(kind, b'{"stream":"LLM_REQ","seq":7}')
    await fake.job(job.id).delta("half")
    await fake.job(job.id).tell(
        kind, b'{"error":{"code":503,"err_code":10077,"description":"full"},"stream":"X","seq":0}'
    )
    await fake.job(job.id).result("half")
    assert [piece async for piece in job.text()] == ["half"]
    assert (await job.result()).text == "half"


async def test_cancel_shows_in_the_result_and_the_text(client: SidecarClient, fake: FakeSidecar) -> None:
    job = await client.submit("What?", stream=True)
    await fake.job(job.id).delta("half")
    reply = await job.cancel(reason="enough")
    assert reply.cancelled
    assert b"enough" in fake.asked["cancel"][0]
    with pytest.raises(JobCancelled):
        [piece async for piece in job.text()]
    assert (await job.result()).state == "cancelled"


async def test_a_result_that_takes_too_long_is_a_timeout_and_the_job_goes_on(
    client: SidecarClient, fake: FakeSidecar
) -> None:
    job = await client.submit("What?")
    with pytest.raises(CallTimeout):
        await job.result(timeout_s=0.05)
    await fake.job(job.id).result("late")
    assert (await job.result(timeout_s=WAIT_S)).text == "late"


async def test_the_same_id_again_is_the_same_job(client: SidecarClient, fake: FakeSidecar) -> None:
    answering(fake, stream_two)
    first = await client.submit("What?", job_id="same")
    await first.result(timeout_s=WAIT_S)
    again = await client.submit("What?", job_id="same")
    assert again.sequence == first.sequence
    assert (await again.result(timeout_s=WAIT_S)).text == "JetStream"


async def test_an_id_that_only_the_stream_remembers_is_published_anew(
    client: SidecarClient, fake: FakeSidecar
) -> None:
    """The server takes a message id for a repetition for minutes, also of a job that was purged meanwhile."""

    async def on_request(job: FakeJob, _: dict[str, Any]) -> None:
        # The second is heard here, but the stream did not store it.
        if len(fake.requests) != 2:
            await stream_two(job)

    fake._on_request = on_request
    first = await client.submit("What?", job_id="gone", follow=False)
    await eventually(lambda: ("acme", "gone") in fake.jobs and fake.jobs["acme", "gone"].state is not None)
    fake.jobs.clear()
    again = await client.submit("What?", job_id="gone")
    assert again.sequence is not None
    assert first.sequence is not None
    assert again.sequence > first.sequence
    assert (await again.result(timeout_s=WAIT_S)).text == "JetStream"
    assert ["Nats-Msg-Id" in headers for _, _, headers in fake.requests] == [True, True, False]
    assert {headers["Llm-Job-Id"] for _, _, headers in fake.requests} == {"gone"}


async def test_a_repetition_that_the_stream_does_not_take_again_stands_as_it_was(nats_access: Access) -> None:
    """A job that nobody knows yet waits in a full queue: its first acknowledgement counts."""
    sidecar = FakeSidecar()
    await sidecar.start(nats_access.url, max_queue=1)
    try:
        async with await SidecarClient.connect(nats_access.url, tenant="acme", connect_timeout_s=WAIT_S) as client:
            first = await client.submit("What?", job_id="unread", follow=False)
            again = await client.submit("What?", job_id="unread", follow=False)
            assert again.sequence == first.sequence
    finally:
        await sidecar.stop()


async def test_a_full_queue_refuses_at_once(nats_access: Access) -> None:
    sidecar = FakeSidecar()
    await sidecar.start(nats_access.url, max_queue=1)
    async with await SidecarClient.connect(nats_access.url, tenant="acme", connect_timeout_s=WAIT_S) as client:
        await client.submit("one", follow=False)
        with pytest.raises(QueueFull) as caught:
            await client.submit("two")
        assert caught.value.is_retryable
        assert caught.value.code == "queue_full"
    await sidecar.stop()


async def test_without_a_stream_the_submission_says_so(nats_access: Access) -> None:
    async with await SidecarClient.connect(nats_access.url, tenant="acme", connect_timeout_s=WAIT_S) as client:
        with pytest.raises(BusUnavailable, match="is a sidecar running"):
            await client.submit("What?", ack_timeout_s=0.5)
        assert not client.bus._feeds


async def test_endpoint_errors_are_typed(client: SidecarClient) -> None:
    with pytest.raises(UnknownJob):
        await client.get("nope")
    with pytest.raises(UnknownJob):
        await client.job("nope").result(timeout_s=WAIT_S)
    with pytest.raises(Permanent) as caught:
        await client.models()
    assert caught.value.code == "tenant_denied"
    assert caught.value.details == {"tenant": "acme"}


async def test_jobs_come_page_by_page(client: SidecarClient, fake: FakeSidecar, monkeypatch: Any) -> None:
    monkeypatch.setattr(client_module, "_PAGE", 3)
    for i in range(8):
        fake.job(f"j{i}").set_state("running")
    assert [job.job async for job in client.jobs()] == [f"j{i}" for i in range(8)]
    assert [job.job async for job in client.jobs(limit=4)] == [f"j{i}" for i in range(4)]
    assert len(fake.asked["jobs"]) == 5


async def test_what_cannot_be_sent_is_refused_before(client: SidecarClient, fake: FakeSidecar) -> None:
    with pytest.raises(Permanent) as caught:
        await client.submit("x" * (client.bus.max_payload + 1))
    assert caught.value.code == "payload_too_large"
    for bad in ("a.b", "", "x" * 65, "a b", "a\n"):
        with pytest.raises(InvalidRequest):
            await client.submit("x", job_id=bad)
        with pytest.raises(InvalidRequest):
            client.job(bad)
    assert not fake.requests


async def test_leaving_a_loop_ends_its_subscription(client: SidecarClient, fake: FakeSidecar) -> None:
    job = await client.submit("What?", stream=True)
    await fake.job(job.id).delta("a")
    async with aclosing(job.events()) as events:
        async for _ in events:
            break
    assert not client.bus._feeds
    waiting = asyncio.ensure_future(job.result())
    await eventually(lambda: len(client.bus._feeds) == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not client.bus._feeds


async def test_jobs_that_nobody_reads_keep_no_subscription(client: SidecarClient, fake: FakeSidecar) -> None:
    answering(fake, stream_two)
    jobs = [await client.submit("What?", stream=True) for _ in range(20)]
    await eventually(lambda: not client.bus._feeds)
    assert (await jobs[7].result(timeout_s=WAIT_S)).text == "JetStream"


async def test_a_submission_may_be_cancelled_anywhere(client: SidecarClient, fake: FakeSidecar) -> None:
    submitted = set()
    for steps in range(30):
        submitting = asyncio.ensure_future(client.submit("What?", job_id=f"c{steps}"))
        for _ in range(steps):
            await asyncio.sleep(0)
        submitting.cancel()
        await asyncio.gather(submitting, return_exceptions=True)
        if not submitting.cancelled():
            submitted.add(f"c{steps}")
    await eventually(lambda: not client.bus._tasks)
    assert len(submitted) < 30
    assert {feed.subject.split(".")[4] for feed in client.bus._feeds} == submitted
    subjects = {sub.subject for sub in client.bus._nc._subs.values()}
    assert len([s for s in subjects if s.startswith("llm.v1.job")]) == len(submitted)
    answering(fake, stream_two)
    assert (await client.ask("What?", job_id="c0", wait_s=WAIT_S)).text == "JetStream"


async def test_closing_the_client_wakes_its_readers(client: SidecarClient, fake: FakeSidecar) -> None:
    job = await client.submit("What?")
    reading = asyncio.ensure_future(job.result())
    await asyncio.sleep(0.05)
    await client.close()
    await client.close()
    with pytest.raises(BusUnavailable):
        await reading
    with pytest.raises(BusUnavailable):
        await client.get(job.id)


async def test_nobody_there_and_wrong_credentials_are_told_at_once(nats_access: Access) -> None:
    with pytest.raises(BusUnavailable):
        await SidecarClient.connect("nats://127.0.0.1:9", tenant="acme", connect_timeout_s=1)
    wrong = nats_access.url.replace(":p@", ":wrong@")
    with pytest.raises(AccessDenied):
        await SidecarClient.connect(wrong, tenant="acme", connect_timeout_s=WAIT_S)


async def test_a_server_restart_in_the_middle_loses_nothing(own_nats_server: Server) -> None:
    sidecar = FakeSidecar()
    await sidecar.start(own_nats_server.url)
    async with await SidecarClient.connect(
        own_nats_server.url, tenant="acme", connect_timeout_s=WAIT_S, reconnect_time_wait=0.05
    ) as client:
        streamed = await client.submit("What?", stream=True)
        plain = await client.submit("What?")
        await sidecar.job(streamed.id).delta("before ")
        reading = asyncio.ensure_future(_join(streamed))
        waiting = asyncio.ensure_future(plain.result(timeout_s=WAIT_S))
        await asyncio.to_thread(own_nats_server.kill)
        await sidecar.job(streamed.id).delta("during ", live=False)
        await sidecar.job(plain.id).result("done meanwhile", live=False)
        submitting = asyncio.ensure_future(client.submit("While away", job_id="away"))
        await asyncio.sleep(0.1)
        await asyncio.to_thread(own_nats_server.restart)
        await eventually(lambda: sidecar.nc.is_connected and client.bus._nc.is_connected)
        await sidecar.job(streamed.id).delta("after")
        await sidecar.job(streamed.id).result("before during after")
        assert await asyncio.wait_for(reading, WAIT_S) == "before during after"
        assert (await waiting).text == "done meanwhile"
        await asyncio.wait_for(submitting, WAIT_S)
        stored = await sidecar.nc.jetstream().stream_info("LLM_REQ")
        assert stored.state.messages == 3
    await sidecar.stop()


async def _join(job: Any) -> str:
    return "".join([piece async for piece in job.text()])


USERS = """
authorization { users: [
  { user: sidecar, password: p }
  { user: acme, password: %s, permissions: {
      publish: ["llm.v1.request.acme.*", "llm.v1.get.acme.*", "llm.v1.replay.acme.*"],
      subscribe: ["llm.v1.job.acme.>", "_INBOX_acme.>"] } }
] }
"""


async def test_a_tenants_own_permissions_suffice_and_others_are_named() -> None:
    with running(make_server(config=USERS % "one")) as server:
        sidecar = FakeSidecar(lambda job, _: stream_two(job))
        await sidecar.start(server.url.replace("nats://", "nats://sidecar:p@"))
        url = server.url.replace("nats://", "nats://acme:one@")
        async with await SidecarClient.connect(url, tenant="acme", connect_timeout_s=WAIT_S) as client:
            assert (await client.ask("What?", wait_s=WAIT_S)).text == "JetStream"
        async with await SidecarClient.connect(url, tenant="globex", connect_timeout_s=WAIT_S) as client:
            with pytest.raises(AccessDenied, match=r"llm\.v1\.request\.globex"):
                await client.submit("What?", ack_timeout_s=1.0, follow=False)
            with pytest.raises(AccessDenied, match=r"llm\.v1\.(job|get)\.globex"):
                await client.job("x").result(timeout_s=WAIT_S)
        await sidecar.stop()


async def test_a_connection_that_was_ended_for_good_is_made_anew() -> None:
    server = make_server(config=USERS % "one")
    with running(server):
        sidecar = FakeSidecar()
        await sidecar.start(server.url.replace("nats://", "nats://sidecar:p@"))
        url = server.url.replace("nats://", "nats://acme:one@")
        async with await SidecarClient.connect(url, tenant="acme", connect_timeout_s=WAIT_S) as client:
            job = await client.submit("What?", stream=True)
            reading = asyncio.ensure_future(_join(job))
            first = client.bus._nc
            await first.close()
            await sidecar.job(job.id).delta("lost ", live=False)
            await eventually(lambda: client.bus._nc is not first)
            await sidecar.job(job.id).delta("and found")
            await sidecar.job(job.id).result("lost and found")
            assert await asyncio.wait_for(reading, WAIT_S) == "lost and found"
        await sidecar.stop()


async def test_the_strict_client_alone_behaves_like_nats_py(nats_access: Access) -> None:
    asking, answering = StrictClient(), StrictClient()
    for connection in (asking, answering):
        await connection.connect(nats_access.url)
    try:

        async def answer(message: Msg) -> None:
            await message.respond(message.data + (message.headers or {})["A"].encode())

        await answering.subscribe("service.*", queue="q", cb=answer)
        await answering.flush()
        for _ in range(3):
            reply = await asking.request("service.a", b"hi ", timeout=WAIT_S, headers={"A": "b:c"})
            assert reply.data == b"hi b:c"
        assert (await asking.request("service.a", b"", timeout=WAIT_S, headers={"A": "d"})).data == b"d"
        with pytest.raises(NoRespondersError):
            await asking.request("nobody", b"", timeout=WAIT_S)
        assert asking.misdelivered.count == answering.misdelivered.count == 0
        await answering.drain()
    finally:
        await asking.close()
        await answering.close()
