"""What the demo shows: jobs of three tenants through the client library, as any application would send them."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple

from sidecar.client import Job, JobResult, SidecarClient, tool
from sidecar.models.event import Delta, ToolActivity
from sidecar.models.result import TerminalState

TENANTS = ("acme", "globex", "initech")
_SUMMARIES = 6
_REPORTS = 3
_REGISTERED_S = 10.0


@tool(name="weather", version="1.0.0", idempotent=True)
async def _weather(city: str) -> dict[str, str]:
    """The weather of a city.

    Args:
        city: Its name.
    """
    return {"city": city, "weather": "3 °C, light snow"}


class Row(NamedTuple):
    """One job of the demo, how it ended, and how it was to end."""

    tenant: str
    job_class: str
    job: str
    result: JobResult
    expected: TerminalState
    shows: str

    @property
    def is_as_expected(self) -> bool:
        return self.result.state == self.expected


class Story:
    """The acts, over one client a tenant. `note` is told what happens, `text` what a model says."""

    def __init__(
        self, clients: Sequence[SidecarClient], *, note: Callable[[str], None], text: Callable[[str], None]
    ) -> None:
        self._acme, self._globex, self._initech = clients
        self._note = note
        self._text = text

    async def play(self) -> list[Row]:
        """Raises SidecarError when the sidecar cannot be reached; what jobs do is in the rows."""
        self._note(f"globex queues {_SUMMARIES} batch jobs, initech {_REPORTS} standard ones")
        crowd = [asyncio.ensure_future(self._summary(i)) for i in range(1, _SUMMARIES + 1)]
        crowd += [asyncio.ensure_future(self._report(i)) for i in range(1, _REPORTS + 1)]
        try:
            rows = [await self._stream(), await self._tool(), await self._fallback()]
            rows += [await self._cancel(), await self._rejected()]
            return rows + list(await asyncio.gather(*crowd))
        finally:
            for job in crowd:
                job.cancel()

    async def _stream(self) -> Row:
        question = "What is JetStream?"
        self._note(f"\nacme asks, and reads the answer as it comes: {question}")
        job = await self._acme.submit(question, model="nova-lite", stream=True, job_id="stream")
        async for piece in job.text():
            self._text(piece)
        self._text("\n")
        return await self._row(job, "interactive", "text streamed as it came")

    async def _tool(self) -> Row:
        question = "What is the weather in Oslo?"
        self._note(f"\nacme registers a tool on the bus, and asks: {question}")
        async with self._acme.provide([_weather]) as provider:
            await provider.wait_registered(timeout_s=_REGISTERED_S)
            job = await self._acme.submit(question, model="nova-lite", tools=["weather@^1"], job_id="tool")
            async for event in job.events():
                if isinstance(event.data, ToolActivity):
                    self._note(_told(event.data))
            row = await self._row(job, "interactive", "a tool called over the bus")
        self._text(f"{row.result.text}\n")
        return row

    async def _fallback(self) -> Row:
        self._note("\nacme names two models; the first one is throttled")
        models = ["claude-haiku-4-5", "nova-lite"]
        job = await self._acme.submit("Translate: Good morning!", model=models, job_id="fallback")
        row = await self._row(job, "interactive", "")
        attempts = row.result.attempts
        reason = attempts[0].error.code if attempts and attempts[0].error else "no error"
        return row._replace(shows=f"{len(attempts)} calls: first model {reason}")

    async def _cancel(self) -> Row:
        self._note("\ninitech cancels a long answer after its first words")
        job = await self._initech.submit("Tell me the history of everything.", stream=True, job_id="cancelled")
        async with aclosing(job.events()) as events:
            async for event in events:
                if isinstance(event.data, Delta):
                    await job.cancel(reason="seen enough")
                    break
        return await self._row(job, "interactive", "cancelled while it streamed", expected="cancelled")

    async def _rejected(self) -> Row:
        self._note("globex asks for a model that does not exist")
        job = await self._globex.submit("Hello?", model="no-such-model", job_id="rejected")
        row = await self._row(job, "interactive", "", expected="rejected")
        return row._replace(shows=row.result.error.code if row.result.error else "")

    async def _summary(self, i: int) -> Row:
        job = await self._globex.submit(f"Summarize page {i}.", job_class="batch", job_id=f"summary-{i}")
        return await self._row(job, "batch", "behind the interactive ones")

    async def _report(self, i: int) -> Row:
        job = await self._initech.submit(f"Summarize report {i}.", job_class="standard", job_id=f"report-{i}")
        return await self._row(job, "standard", "")

    async def _row(self, job: Job, job_class: str, shows: str, *, expected: TerminalState = "succeeded") -> Row:
        return Row(job.tenant, job_class, job.id, await job.result(), expected, shows)


def _told(activity: ToolActivity) -> str:
    if activity.phase == "called":
        return f"the sidecar calls {activity.tool}@{activity.version} with {activity.input}"
    return f"it {activity.phase} {activity.output} in {activity.elapsed_ms} ms; the model goes on"
