"""What is kept beside a request that was given up: the header `Llm-Dead` of stream `LLM_DEAD`."""

from typing import Any

import msgspec

from sidecar.models.base import Open, Timestamp

MAX_NOTE_BYTES = 32_768
"""A message's headers may take 64 KiB in all."""


class DeadNote(Open, frozen=True, kw_only=True, rename={"job_class": "class"}):
    """`request_seq` and `stored` are the request's place and time in the queue, `history` one entry an attempt;
    `error` is the code of the job's end, which notes of the first release do not have; with `retried_as` the
    request itself is gone, since it was run again under that id.
    """

    request_seq: int
    job_class: str
    stored: Timestamp
    reason: str
    history: tuple[dict[str, Any], ...] = ()
    error: str = "crash_loop"
    retried_as: str | None = None

    def encoded(self) -> str:
        """The note as one header line, without its oldest entries where it would be too long for one."""
        note, history = self, list(self.history)
        while len(text := msgspec.json.encode(note)) > MAX_NOTE_BYTES and (history or len(note.reason) > 1000):
            history = history[len(history) // 2 + 1 :]
            note = msgspec.structs.replace(note, history=tuple(history), reason=note.reason[:1000])
        return text.decode()

    def without_history(self) -> "DeadNote":
        return msgspec.structs.replace(self, history=())
