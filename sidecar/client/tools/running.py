"""Running a tool's function: async ones as tasks, plain ones in threads that nobody has to wait for."""

import asyncio
import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable
from typing import Any

from sidecar.client.tools.context import ToolContext, enter
from sidecar.client.tools.definition import Tool
from sidecar.client.tools.errors import ToolError
from sidecar.client.tools.replies import FAILED, Reply, error_reply, failure, output_reply
from sidecar.models.shown import shown

log = logging.getLogger(__name__)
_FAILED = "%r failed, called by job %s of tenant %s"


def begin(
    tool: Tool[..., Any],
    arguments: dict[str, Any],
    context: ToolContext,
    *,
    limit_bytes: int,
    on_end: Callable[[], None],
) -> asyncio.Future[Reply]:
    """Start the function; its output or failure as a reply. `on_end` is called once it has really ended.

    Cancelling the future cancels an async function. A thread goes on until its function looks at the context;
    the future ends at once all the same.
    """
    if tool.signature.context is not None:
        arguments = {**arguments, tool.signature.context: context}
    if tool.signature.is_async:
        # A task of its own, so that the call can be cancelled without the loop that serves the others.
        task = asyncio.get_running_loop().create_task(_answer(tool, arguments, context, limit_bytes))
        task.add_done_callback(lambda _: on_end())
        return task

    def answer() -> Reply:
        enter(context)
        try:
            return output_reply(tool.signature.encode_output(tool.function(**arguments)), limit_bytes=limit_bytes)
        except ToolError as e:
            return failure(e)
        except (Exception, SystemExit) as e:
            log.exception(_FAILED, tool, shown(context.job_id), shown(context.tenant))
            return failure(e)

    return _in_thread(answer, name=f"tool-{tool.name}", on_end=on_end)


async def _answer(
    tool: Tool[..., Any], arguments: dict[str, Any], context: ToolContext, limit_bytes: int
) -> Reply:
    enter(context)
    try:
        output = await tool.function(**arguments)
        return output_reply(tool.signature.encode_output(output), limit_bytes=limit_bytes)
    except ToolError as e:
        return failure(e)
    except (Exception, SystemExit) as e:
        log.exception(_FAILED, tool, shown(context.job_id), shown(context.tenant))
        return failure(e)


def _in_thread(answer: Callable[[], Reply], *, name: str, on_end: Callable[[], None]) -> asyncio.Future[Reply]:
    """Daemon threads, not a pool: a function that hangs must not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Reply] = loop.create_future()

    def settle(reply: Reply) -> None:
        on_end()
        if not future.done():
            future.set_result(reply)

    def run() -> None:
        reply = error_reply(FAILED, "the tool's thread ended without an answer")
        try:
            reply = answer()
        finally:
            # Raised when the event loop is closed: then the provider is gone, and nobody waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(settle, reply)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), name=name, daemon=True).start()
    return future
