"""Answers that are larger than the bus allows: their output goes to the tenant's Object Store bucket.

The object is stored before the document that names it is committed, under a name of the job and its attempt, so
that an owner that lost the job can never replace what another's document names. What nobody names ages with the
bucket.
"""

import msgspec

from sidecar.models.codec import encode
from sidecar.models.job import JobState
from sidecar.models.objects import hex_digest
from sidecar.models.result import ObjectRef, Output, Result
from sidecar.ports.bus import Blobs


def object_name(state: JobState) -> str:
    return f"result.{state.job}.{state.attempt}"


async def offloaded(result: Result, state: JobState, blobs: Blobs) -> Result:
    """The result with its output in an object, `output` naming it. Raises BusUnavailable, BusRefused."""
    content = encode(result.output)
    info = await blobs.put(state.tenant, object_name(state), content)
    reference = ObjectRef(bucket=info.bucket, name=info.name, size=info.size, sha256=hex_digest(content))
    return msgspec.structs.replace(result, output=Output(object=reference))
