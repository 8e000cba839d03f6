"""The steps of a job's end, each safe to repeat: commit, result event, deletion of the request."""

import logging
import re
from collections import Counter
from typing import Any

import msgspec

from sidecar.errors import BusRefused, BusUnavailable, InvalidRequest, SidecarError
from sidecar.job_manager import transitions
from sidecar.job_manager.keeping import RequestKeeper
from sidecar.job_manager.offload import offloaded
from sidecar.job_manager.record import StateRecord
from sidecar.models.base import JOB_CLASSES, rfc3339
from sidecar.models.codec import decode_request
from sidecar.models.event import Event
from sidecar.models.job import JobState
from sidecar.models.result import ErrorInfo, Output, Result
from sidecar.ports.bus import Blobs, Clock, Intake, Publisher, StoredRequest
from sidecar.runtime.redaction import told
from sidecar.runtime.retry import RetryDelay, keep_trying

log = logging.getLogger(__name__)

# What may stand in a subject as one token and matches nothing else.
_TOKEN = re.compile(r"[^\s.*>\x00-\x1f\x7f\ufffd]{1,256}")


class Completion:
    """Ends jobs. The state document is the commit point; what follows it can be repeated by anybody."""

    def __init__(
        self,
        *,
        publisher: Publisher,
        intake: Intake,
        keeper: RequestKeeper,
        blobs: Blobs,
        clock: Clock,
    ) -> None:
        self._publisher = publisher
        self._intake = intake
        self._keeper = keeper
        self._blobs = blobs
        self._clock = clock
        self.counts: Counter[str] = Counter()

    async def commit(self, record: StateRecord, result: Result, *, n: int) -> None:
        """Write the terminal document, with the result as event `n`; nothing where the job has ended already.

        Raises Conflict when the job is somebody else's.

        An output that the bus does not take (larger than its `max_payload`) goes to the Object Store; where that
        does not take it either, the result becomes a failure that says so.
        """
        before = record.state
        if before.is_terminal:
            return
        try:
            await record.write(transitions.ended(before, result, result_n=n, now=self._clock.now()))
        except BusRefused as e:
            await self._commit_elsewhere(record, result, e, n=n)

    async def _commit_elsewhere(self, record: StateRecord, result: Result, refusal: BusRefused, *, n: int) -> None:
        before = record.state
        if refusal.code == "payload_too_large" and result.output.object is None:
            try:
                # The object before the document that names it: whoever reads the result finds its text.
                smaller = await keep_trying(
                    "storing a large answer", lambda: offloaded(result, before, self._blobs), clock=self._clock
                )
                await record.write(transitions.ended(before, smaller, result_n=n, now=self._clock.now()))
                self.counts["offloaded"] += 1
                return
            except BusRefused as e:
                refusal = e
        log.warning("a result was refused", extra={"job": before.job, "error": refusal.message})
        refused = without_output(result, refusal)
        # A document must fit wherever the request did: what it carries for listing goes before the end does.
        before = msgspec.structs.replace(before, metadata={})
        await record.write(transitions.ended(before, refused, result_n=n, now=self._clock.now()))

    async def announce(self, state: JobState, *, metadata: dict[str, Any]) -> None:
        """Say the result of a job whose document is terminal. When this returns, the server has it."""
        event = _result_event(state, metadata)
        # Whatever else a subject may have held fits no header.
        job_class = state.job_class if state.job_class in JOB_CLASSES else None
        # The document says that the job has ended: nothing but this event tells its client, so it is tried until
        # stored.
        delay = RetryDelay(self._clock, "publishing a result")
        while True:
            try:
                await self._publisher.publish_result(event, job_class=job_class)
                break
            except BusUnavailable as e:
                await delay.after(e)
            except BusRefused as e:
                if e.code != "payload_too_large" or not event.metadata:
                    raise
                # The document fitted and an event without metadata is smaller: the result is said either way.
                log.warning(
                    "a result's metadata does not fit the bus", extra={"job": state.job, "error": e.message}
                )
                event = msgspec.structs.replace(event, metadata={})
        self.counts[state.state] += 1
        if state.state == "failed":
            await self._keeper.keep(state)

    async def delete(self, seq: int) -> None:
        """Delete a request: the last step, for after it nothing tells that the job has to come to an end."""
        # A request left standing would be taken for an open job by the next scheduler, which does all of the end
        # again.
        delay = RetryDelay(self._clock, "deleting a request")
        while True:
            try:
                return await self._intake.delete(seq)
            except BusUnavailable as e:
                await delay.after(e)

    async def finish(self, state: JobState, *, metadata: dict[str, Any]) -> None:
        """What follows the commit: the result is said, and when the server has it, the request deleted."""
        await self.announce(state, metadata=metadata)
        await self.delete(state.request_seq)

    async def turn_away(self, stored: StoredRequest, *, job: str, result: Result) -> None:
        """Refuse a request whose tenant is no name: it can have no document, only a result and no more."""
        tenant = stored.lane.tenant
        if _TOKEN.fullmatch(tenant):
            event = Event(
                job=job,
                tenant=tenant,
                type="result",
                attempt=0,
                n=1,
                time=rfc3339(self._clock.now()),
                metadata={},
                data=result,
            )
            # Its request goes next: after that nothing would say this result any more.
            await keep_trying(
                "publishing a result", lambda: self._publisher.publish_result(event), clock=self._clock
            )
        self.counts["rejected"] += 1
        log.warning("a request came for a tenant that is no name", extra={"seq": stored.seq})
        await self.delete(stored.seq)

    async def repeat(self, state: JobState) -> None:
        """Do again what may be missing after the commit of a job that ended in other hands."""
        seq = state.request_seq
        stored = await keep_trying("reading a request", lambda: self._intake.get(seq), clock=self._clock)
        if stored is not None:
            await self.finish(state, metadata=metadata_of(stored.payload))


def _result_event(state: JobState, metadata: dict[str, Any]) -> Event:
    """The event of a terminal document. Raises SidecarError for another."""
    if state.result is None or state.result_n is None:
        raise SidecarError(f"job {state.job} has no result to announce")
    return Event(
        job=state.job,
        tenant=state.tenant,
        type="result",
        attempt=state.attempt,
        n=state.result_n,
        time=state.updated,
        metadata=metadata,
        data=state.result,
    )


def metadata_of(payload: bytes) -> dict[str, Any]:
    """The metadata that a request carries; none where the request is not valid."""
    try:
        return decode_request(payload).metadata
    except InvalidRequest:
        return {}


def without_output(result: Result, refusal: SidecarError) -> Result:
    """The failure that stands in for a result that the bus refused."""
    return msgspec.structs.replace(
        result,
        state="failed",
        output=Output(),
        partial=True,
        text_sha256=None,
        error=ErrorInfo(
            code="payload_too_large",
            message=f"the answer does not fit the bus: {told(refusal)}; lower max_tokens or raise max_payload",
            details={"output_tokens": result.usage.output_tokens},
        ),
    )
