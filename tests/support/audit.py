"""What the streams hold after a rough time, held against what was promised: the server's word, in stored order."""

import asyncio
import hashlib
import json
import re
from base64 import b64decode
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nats.aio.client import Client

TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired", "rejected"})
READS_AT_ONCE = 64
REQUEST_S = 30.0
_NO_LEADER = 10008
_NO_MESSAGE = 10037
_MARK = re.compile(r"\bjob=([A-Za-z0-9_-]+)/([A-Za-z0-9_-]+)")


def prompt(tenant: str, job: str, *, behave: str) -> str:
    """A prompt whose calls can be counted by job afterwards. `behave` is the emulator's grammar."""
    return f"[[{behave}]] job={tenant}/{job}"


class Message(NamedTuple):
    seq: int
    subject: str
    payload: bytes


@dataclass
class Findings:
    """What was found. All but the counters must be empty."""

    jobs: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    spoke_late: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    garbled: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    requests_left: int = 0
    dead: int = 0
    states: Counter[str] = field(default_factory=Counter)
    attempts: Counter[int] = field(default_factory=Counter)
    calls: int = 0
    repeated: int = 0

    @property
    def broken(self) -> list[str]:
        """What was found to be wrong, job by job."""
        return [*self.lost, *self.doubled, *self.spoke_late, *self.gaps, *self.garbled, *self.unfinished]

    @property
    def problems(self) -> dict[str, Any]:
        """By kind, what breaks a promise; empty when all were kept."""
        names = ("lost", "doubled", "spoke_late", "gaps", "garbled", "unfinished", "unexplained")
        found = {name: getattr(self, name) for name in (*names, "requests_left")}
        return {name: value for name, value in found.items() if value}

    def __str__(self) -> str:
        return (
            f"{self.jobs} jobs {dict(self.states)}: {len(self.lost)} lost, {len(self.doubled)} doubled, "
            f"{len(self.spoke_late)} with events of an old owner, {self.calls} calls of which {self.repeated} "
            f"repeated, attempts {dict(sorted(self.attempts.items()))}, {self.requests_left} requests left, "
            f"{self.dead} dead letters; {self.problems or 'no promise broken'}"
        )


async def dump(connection: Client, stream: str) -> list[Message]:
    """Everything a stream holds, in stored order, as its leader knows it."""
    info = json.loads((await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=REQUEST_S)).data)
    state = info["state"]
    room = asyncio.Semaphore(READS_AT_ONCE)

    async def read(seq: int) -> Message | None:
        async with room:
            return await _get(connection, stream, {"seq": seq})

    found = await asyncio.gather(*(read(seq) for seq in range(state["first_seq"], state["last_seq"] + 1)))
    return [message for message in found if message is not None]


async def last(connection: Client, stream: str, subject: str) -> Message | None:
    """The last message of a subject, as the stream's leader knows it."""
    return await _get(connection, stream, {"last_by_subj": subject})


async def _get(connection: Client, stream: str, question: Mapping[str, Any]) -> Message | None:
    subject, asked = f"$JS.API.STREAM.MSG.GET.{stream}", json.dumps(question).encode()
    reply = json.loads((await connection.request(subject, asked, timeout=REQUEST_S)).data)
    until = asyncio.get_running_loop().time() + REQUEST_S
    while reply.get("error", {}).get("err_code") == _NO_LEADER and asyncio.get_running_loop().time() < until:
        # A server that comes back finds its peers first.
        await asyncio.sleep(0.2)
        reply = json.loads((await connection.request(subject, asked, timeout=REQUEST_S)).data)
    if "error" in reply:
        if reply["error"]["err_code"] == _NO_MESSAGE:
            return None
        raise RuntimeError(f"{stream}: {reply['error']}")
    message = reply["message"]
    return Message(message["seq"], message["subject"], b64decode(message.get("data", "")))


async def count(connection: Client, stream: str) -> int:
    """How many messages a stream holds; 0 when there is no such stream."""
    reply = json.loads((await connection.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=REQUEST_S)).data)
    return int(reply["state"]["messages"]) if "state" in reply else 0


def calls_by_job(calls: Iterable[Mapping[str, Any]], tenant: str) -> Counter[str]:
    """How often the provider was called for a tenant's jobs, from the emulator's recorded calls with bodies."""
    counted: Counter[str] = Counter()
    for call in calls:
        found = _MARK.search(json.dumps(call["request"]["messages"]))
        if found is not None and found[1] == tenant:
            counted[found[2]] += 1
    return counted


async def audit(
    connection: Client,
    tenant: str,
    jobs: Iterable[str],
    calls: Counter[str],
    *,
    streamed: frozenset[str] = frozenset(),
) -> Findings:
    """Hold a tenant's streams against the promises. `streamed` are the jobs that asked for deltas."""
    wanted = list(jobs)
    findings = Findings(jobs=len(wanted))
    documents: dict[str, dict[str, Any]] = {}
    events: dict[str, list[dict[str, Any]]] = {job: [] for job in wanted}
    for message in await dump(connection, "KV_LLM_JOB"):
        tokens = message.subject.split(".")
        if message.subject.startswith(f"$KV.LLM_JOB.{tenant}.") and message.payload:
            documents[tokens[-1]] = json.loads(message.payload)
        elif message.subject.startswith(f"llm.v1.log.{tenant}."):
            event = json.loads(message.payload)
            events.setdefault(event["job"], []).append(event)
    for job in wanted:
        judge(findings, job, documents.get(job), events[job], calls[job], is_streamed=job in streamed)
    findings.lost += sorted(f"{job}: nobody asked for it" for job in set(events) - set(wanted))
    findings.requests_left = await count(connection, "LLM_REQ")
    findings.dead = await count(connection, "LLM_DEAD")
    return findings


def judge(
    findings: Findings,
    job: str,
    document: Mapping[str, Any] | None,
    stored: list[dict[str, Any]],
    calls: int,
    *,
    is_streamed: bool,
) -> None:
    """One job: its last document, its events in stored order, and how often the provider was called for it."""
    results = [event for event in stored if event["type"] == "result"]
    if not results:
        findings.lost.append(job)
        return
    if len(results) > 1:
        findings.doubled.append(job)
    result = results[0]
    findings.states[result["data"]["state"]] += 1
    findings.attempts[result["attempt"]] += 1
    findings.calls += calls
    findings.repeated += max(0, calls - 1)
    if calls > max(1, result["attempt"]):
        findings.unexplained.append(f"{job}: {calls} calls, but attempt {result['attempt']}")
    if document is None or document["state"] not in TERMINAL or document["result"] != result["data"]:
        findings.unfinished.append(f"{job}: {document and document['state']}")
    _judge_order(findings, job, stored)
    _judge_text(findings, job, stored, result, is_streamed=is_streamed)


def _judge_order(findings: Findings, job: str, stored: list[dict[str, Any]]) -> None:
    attempts = [event["attempt"] for event in stored]
    if attempts != sorted(attempts) or stored[-1]["type"] != "result":
        findings.spoke_late.append(f"{job}: {[(e['attempt'], e['n'], e['type']) for e in stored]}")
    for attempt in set(attempts):
        # An event whose acknowledgement got lost may be stored twice, under one number.
        numbers = sorted({event["n"] for event in stored if event["attempt"] == attempt})
        if numbers != list(range(1, len(numbers) + 1)):
            findings.gaps.append(f"{job}: attempt {attempt} has {numbers}")


def _judge_text(
    findings: Findings, job: str, stored: list[dict[str, Any]], result: Mapping[str, Any], *, is_streamed: bool
) -> None:
    text = result["data"]["output"]["text"]
    checksum = result["data"]["text_sha256"]
    if checksum and hashlib.sha256(text.encode()).hexdigest() != checksum:
        findings.garbled.append(f"{job}: checksum")
    if is_streamed and result["data"]["state"] == "succeeded":
        pieces = {
            event["n"]: event["data"].get("text", "")
            for event in stored
            if event["type"] == "delta" and event["attempt"] == result["attempt"]
        }
        if "".join(pieces[n] for n in sorted(pieces)) != text:
            findings.garbled.append(f"{job}: deltas")
