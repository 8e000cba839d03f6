"""What a soak holds against what was promised, while it runs and at its end."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import nats

from benchmarks.chaos_figures import NONE, Stage
from benchmarks.measures import Bar, Figure
from benchmarks.real_load import CHARACTERS_A_TOKEN, Kind, Sent, Traffic
from sidecar.cli.sizing import ExpectedLoad, stored_at_first
from sidecar.errors import BusUnavailable
from tests.support.audit import TERMINAL, Findings, Message, count, dump, judge

Told = dict[str, bool]
"""By job: whether who asked to cancel it was told that it is."""

ASKED_AT_ONCE = 50


async def oldest_queued(jobs: Traffic, limits: Mapping[str, float]) -> dict[str, float]:
    """By tenant: how long its oldest queued job has waited (s). What is over its limit is asked for, since the
    event of its begin may have passed while the server was away.
    """
    oldest: dict[str, float] = {}
    asked = 0
    for sent in jobs.waiting():
        age_s = time.monotonic() - sent.at
        if age_s <= oldest.get(sent.tenant, 0.0):
            continue
        if age_s > limits[sent.tenant] and asked < ASKED_AT_ONCE:
            asked += 1
            if not await is_queued(jobs, sent):
                continue
        oldest[sent.tenant] = age_s
    return oldest


async def is_queued(jobs: Traffic, sent: Sent) -> bool:
    """Whether it still waits to be begun, by its document; marked as begun where it does not."""
    document = await ask(jobs, sent)
    if document.get("state") == "queued" or "error" in document:
        return True
    sent.begun_at = sent.begun_at or time.monotonic()
    if document.get("state") in TERMINAL:
        jobs.close(sent, str(document["state"]))
    return False


async def ask(jobs: Traffic, sent: Sent) -> dict[str, Any]:
    try:
        reply = await jobs.mux.request(f"llm.v1.get.{sent.tenant}.{sent.job}", timeout_s=5)
    except BusUnavailable:
        return {"error": "nobody answers"}
    answer: dict[str, Any] = msgspec.json.decode(reply.payload)
    return answer


async def hold_to_account(under: Stage, jobs: Traffic, told: Told) -> list[Figure]:
    """Every job against what the streams hold: one result, the last word; the document says the same."""
    connection = await nats.connect(under.nats.url)
    try:
        # What follows a result (the request's deletion) may be under way.
        async with asyncio.timeout(30):
            while await count(connection, "LLM_REQ"):  # noqa: ASYNC110 - a stream has no event
                await asyncio.sleep(0.5)
    except TimeoutError:
        pass
    try:
        found = judge_all(jobs, await dump(connection, "KV_LLM_JOB"))
        found.requests_left = await count(connection, "LLM_REQ")
        found.dead = await count(connection, "LLM_DEAD")
    finally:
        await connection.close()
    broken_cancels = [job for job, was_told in told.items() if was_told and jobs.jobs[job].state != "cancelled"]
    return [
        line("jobs that broke a promise", len(found.broken), note=str(found)[:400]),
        line("requests left, dead letters", found.requests_left + found.dead),
        line("told cancelled and went on", len(broken_cancels), note=f"{sum(told.values())} of {len(told)} told"),
        line("ended otherwise than they should", *unexpected(jobs.jobs.values())),
    ]


def line(name: str, value: float, note: str = "") -> Figure:
    return Figure(name=name, unit="", group="soak", bar=NONE, samples=(value,), note=note)


async def sums(under: Stage, jobs: Traffic, kinds: Mapping[str, Kind]) -> Figure:
    """What `sidecar sizing` reckons for these jobs against what the stream has."""
    counts = Counter(sent.tenant for sent in jobs.jobs.values() if sent.state == "succeeded")
    reckoned = sum(stored_at_first(work_of(kind), counts[name]) for name, kind in kinds.items())
    others = sum(sent.state != "succeeded" for sent in jobs.jobs.values())
    reckoned += stored_at_first(ExpectedLoad(jobs_per_s=1, answer_bytes=0), others)
    info = await jobs.mux.api("STREAM.INFO.KV_LLM_JOB")
    stored = info["state"]["bytes"]
    return Figure(
        name="bytes stored, off from sidecar sizing by",
        unit="",
        group="soak",
        bar=Bar(value=0.25),
        samples=(abs(stored / reckoned - 1),),
        note=f"{stored / 1e6:.1f} MB of {len(jobs.jobs)} jobs, {stored / reckoned:.2f} of what is reckoned",
    )


def work_of(kind: Kind) -> ExpectedLoad:
    text = kind.output_tokens * CHARACTERS_A_TOKEN
    pace = re.search(r"tps=(\d+)", kind.behave)
    return ExpectedLoad(
        jobs_per_s=1,
        answer_bytes=text,
        streamed=float(kind.stream),
        answer_s=kind.output_tokens / int(pace[1]) if pace else 0.0,
        tool_calls=len(kind.tools),
    )


def judge_all(jobs: Traffic, messages: Iterable[Message]) -> Findings:
    documents: dict[str, dict[str, Any]] = {}
    events: dict[str, list[dict[str, Any]]] = {job: [] for job in jobs.jobs}
    for message in messages:
        tokens = message.subject.split(".")
        if message.subject.startswith("$KV.LLM_JOB.") and len(tokens) == 4 and message.payload:
            documents[tokens[-1]] = msgspec.json.decode(message.payload)
        elif message.subject.startswith("llm.v1.log."):
            event = msgspec.json.decode(message.payload)
            if event["job"] in events:
                events[event["job"]].append(event)
    findings = Findings(jobs=len(events))
    for job, stored in events.items():
        judge(findings, job, documents.get(job), stored, 0, is_streamed=jobs.jobs[job].tenant == "streams")
        if stored and stored[-1]["type"] == "result":
            jobs.close(jobs.jobs[job], stored[-1]["data"]["state"], error=stored[-1]["data"].get("error"))
    return findings


def unexpected(jobs: Iterable[Sent]) -> tuple[int, str]:
    """How many, and as what they ended: refused for a full queue may only be who fills it."""
    allowed = {"cancelled": {"cancelled", "succeeded"}, "full": {"succeeded", "rejected"}}
    ends = Counter((s.tenant, s.state or "no end", s.error) for s in jobs)
    wrong = {k: n for k, n in ends.items() if k[1] not in allowed.get(k[0], {"succeeded"})}
    by_end = ", ".join(f"{tenant} {state} {n}" for (tenant, state, _), n in sorted(ends.items()))
    return sum(wrong.values()), f"{wrong or ''} {by_end}".strip()
