"""A model that answers by a script, in place of the Bedrock client."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from typing import Literal, NamedTuple

from sidecar.errors import HoldCause, SidecarError, StreamInterrupted
from sidecar.models.call import ModelCall, ModelDelta, ModelReply
from sidecar.models.content import AnswerBlock, TextBlock, ToolUseBlock
from sidecar.models.filtering import GuardrailVerdict
from sidecar.models.result import StopReason, Usage
from sidecar.ports.bus import Clock


def _nothing_found(text: str) -> GuardrailVerdict:
    return GuardrailVerdict(intervened=False, is_blocked=False, text=text)


class Turn(NamedTuple):
    """One answer of a scripted model, in seconds of its clock.

    `deltas` are sent one every `delta_s` after `first_s`; `error` is raised in place of the reply, after the
    deltas. None for both `reply` and `error` is an answer that breaks off.
    """

    reply: ModelReply | None = None
    deltas: tuple[ModelDelta, ...] = ()
    error: SidecarError | None = None
    first_s: float = 0.0
    delta_s: float = 0.0
    last_s: float = 0.0


def says(
    text: str, *, pieces: int = 1, usage: Usage | None = None, first_s: float = 0.0, delta_s: float = 0.0
) -> Turn:
    """An answer of plain text, streamed in `pieces`."""
    size = max(1, -(-len(text) // pieces))
    deltas = tuple(ModelDelta(index=0, text=text[i : i + size]) for i in range(0, len(text), size))
    reply = reply_of((TextBlock(text=text),), "end_turn", usage)
    return Turn(reply=reply, deltas=deltas, first_s=first_s, delta_s=delta_s)


def calls_tools(*calls: ToolUseBlock, text: str = "", usage: Usage | None = None) -> Turn:
    """An answer that asks for tools."""
    content: tuple[AnswerBlock, ...] = (TextBlock(text=text), *calls) if text else calls
    deltas = (ModelDelta(index=0, text=text),) if text else ()
    return Turn(reply=reply_of(content, "tool_use", usage), deltas=deltas)


def fails(error: SidecarError, *, after: str = "", first_s: float = 0.0) -> Turn:
    """An error, after some text if `after` is given."""
    deltas = (ModelDelta(index=0, text=after),) if after else ()
    return Turn(error=error, deltas=deltas, first_s=first_s)


def reply_of(content: tuple[AnswerBlock, ...], stop_reason: StopReason, usage: Usage | None = None) -> ModelReply:
    return ModelReply(
        content=content,
        stop_reason=stop_reason,
        raw_stop_reason=stop_reason,
        usage=usage or Usage(input_tokens=10, output_tokens=5),
    )


class ScriptedModel:
    """A `ModelClient`. `script` holds the turns in order, or is a function from the call to its turn.

    After the script's end every call is answered by `default`. `calls` records what was asked, `open_calls`
    how many are under way, `broken_off` how many the caller cancelled or left. `judge` is what its guardrails say,
    `judged` what they were asked.
    """

    def __init__(
        self,
        clock: Clock,
        script: Iterable[Turn] | Callable[[ModelCall], Turn] = (),
        *,
        default: Turn | None = None,
    ) -> None:
        self._clock = clock
        self._choose = script if callable(script) else None
        self._turns = iter(()) if callable(script) else iter(script)
        self._default = default or says("ok")
        self.calls: list[ModelCall] = []
        self.open_calls = 0
        self.broken_off = 0
        self.is_closed = False
        self.judged: list[tuple[str, str, str, str]] = []
        self.looked: list[HoldCause] = []
        self.is_mended: Callable[[HoldCause], bool | None] = lambda cause: None
        """What a look without a call tells of a cause."""
        self.judge: Callable[[str], GuardrailVerdict] = _nothing_found

    async def converse(self, call: ModelCall) -> ModelReply:
        reply: ModelReply | None = None
        async for item in self.stream(call):
            reply = item if isinstance(item, ModelReply) else None
        if reply is None:
            raise StreamInterrupted("the answer broke off")
        return reply

    async def stream(self, call: ModelCall) -> AsyncIterator[ModelDelta | ModelReply]:
        turn = self._turn(call)
        self.calls.append(call)
        self.open_calls += 1
        is_over = False
        try:
            async with aclosing(self._play(turn)) as items:
                async for item in items:
                    is_over = isinstance(item, ModelReply)
                    yield item
        except SidecarError:
            is_over = True
            raise
        finally:
            self.open_calls -= 1
            self.broken_off += not is_over

    async def apply_guardrail(
        self,
        guardrail: str,
        *,
        version: str,
        text: str,
        source: Literal["INPUT", "OUTPUT"],
        region: str,
        timeout_s: float,
    ) -> GuardrailVerdict:
        self.judged.append((guardrail, version, source, text))
        return self.judge(text)

    async def look(self, cause: HoldCause, *, region: str | None) -> bool | None:
        self.looked.append(cause)
        return self.is_mended(cause)

    async def close(self) -> None:
        self.is_closed = True

    def _turn(self, call: ModelCall) -> Turn:
        if self._choose is not None:
            return self._choose(call)
        return next(self._turns, self._default)

    async def _play(self, turn: Turn) -> AsyncGenerator[ModelDelta | ModelReply, None]:
        await self._clock.sleep(turn.first_s)
        for i, delta in enumerate(turn.deltas):
            if i:
                await self._clock.sleep(turn.delta_s)
            yield delta
        await self._clock.sleep(turn.last_s)
        if turn.error is not None:
            raise turn.error
        if turn.reply is None:
            raise StreamInterrupted("the answer broke off")
        yield turn.reply
