"""`@tool`: a function with what the registry and the models need to know of it."""

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, overload

from sidecar.client.tools.docstrings import parse
from sidecar.client.tools.errors import InvalidTool
from sidecar.client.tools.signature import Signature, function_name, read_signature
from sidecar.errors import InvalidRequest
from sidecar.models.codec import decode, encode
from sidecar.models.request import InlineTool
from sidecar.models.subjects import is_name
from sidecar.models.tool import ToolRegistration

DEFAULT_CONCURRENCY = 16
DEFAULT_MAX_WAITING = 256
DEFAULT_MAX_RUN_S = 300.0
P = ParamSpec("P")
R = TypeVar("R")


class Tool(Generic[P, R]):
    """What `@tool` makes of a function; calling it calls the function. `registration` is what is published."""

    def __init__(
        self,
        function: Callable[P, R],
        registration: ToolRegistration,
        signature: Signature,
        *,
        concurrency: int,
        max_waiting: int,
        max_run_s: float,
    ) -> None:
        self.function = function
        self.registration = registration
        self.signature = signature
        self.concurrency = concurrency
        self.max_waiting = max_waiting
        self.max_run_s = max_run_s
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Tool {self.name}@{self.version}>"

    @property
    def name(self) -> str:
        return self.registration.name

    @property
    def version(self) -> str:
        return self.registration.version

    def inline(self) -> InlineTool:
        """This tool as one that a request carries and its client runs; see `sidecar.client.continue_with`."""
        return InlineTool(
            name=self.name,
            description=self.registration.description,
            input_schema=self.registration.input_schema,
        )


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    version: str = "1.0.0",
    description: str | None = None,
    timeout_s: float = 30.0,
    idempotent: bool = False,
    ttl_s: int = 90,
    concurrency: int = DEFAULT_CONCURRENCY,
    max_waiting: int = DEFAULT_MAX_WAITING,
    max_run_s: float | None = None,
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a tool of an async or plain function. Plain ones run in threads.

    ```python
    @tool(version="1.2.0", idempotent=True)
    async def search(query: str, limit: int = 10) -> list[Hit]:
        \"\"\"Search the handbook.

        Args:
            query: Words to look for.
            limit: How many hits at most.
        \"\"\"
    ```
    Schemas come from the annotations (JSON's own types, dataclasses, msgspec structs, pydantic models), the
    description and those of the arguments from the docstring; `Annotated[str, "words"]` describes an argument,
    too. A parameter annotated `ToolContext` is not shown to the model and gets the call's context.

    `name` is the function's, `version` semantic; a published version cannot change, so count it up with the
    schemas. `idempotent`: a call whose outcome is unknown may be repeated. `timeout_s`: how long the sidecar
    waits without a sign of life, which a provider gives every few seconds. `max_run_s` (300, or `timeout_s`
    where that is more): after that the function is cancelled. `ttl_s`: how long a registration outlives a
    provider that died. `concurrency` calls run at once, `max_waiting` more wait in order, and what comes on
    top is refused.

    Raises InvalidTool, which names the function, the parameter and the remedy.
    """
    if function is not None:
        return _make(function)
    return lambda decorated: _make(decorated, **options)


def _make(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    version: str = "1.0.0",
    description: str | None = None,
    timeout_s: float = 30.0,
    idempotent: bool = False,
    ttl_s: int = 90,
    concurrency: int = DEFAULT_CONCURRENCY,
    max_waiting: int = DEFAULT_MAX_WAITING,
    max_run_s: float | None = None,
) -> Tool[..., Any]:
    if isinstance(function, Tool):
        raise InvalidTool(f"{function_name(function)}() is a tool already: decorate it once")
    shown = function_name(function)
    documented = parse(getattr(function, "__doc__", None))
    signature = read_signature(function, documented.arguments)
    _check_limits(shown, concurrency=concurrency, max_waiting=max_waiting, max_run_s=max_run_s)
    registration = _registration(
        shown,
        {
            "name": _tool_name(function, name, shown),
            "version": version,
            "description": description or documented.text,
            "input_schema": signature.input_schema,
            "output_schema": signature.output_schema,
            "timeout_s": timeout_s,
            "idempotent": idempotent,
            "ttl_s": ttl_s,
        },
    )
    return Tool(
        function,
        registration,
        signature,
        concurrency=concurrency,
        max_waiting=max_waiting,
        max_run_s=max(DEFAULT_MAX_RUN_S, timeout_s) if max_run_s is None else max_run_s,
    )


def _tool_name(function: Callable[..., Any], given: str | None, shown: str) -> str:
    name = getattr(function, "__name__", "") if given is None else given
    if not is_name(name):
        raise InvalidTool(f"{shown}(): the name {name!r} is not 1 to 64 of A-Z a-z 0-9 _ -: give tool(name=…)")
    return name


def _check_limits(shown: str, *, concurrency: int, max_waiting: int, max_run_s: float | None) -> None:
    if concurrency < 1:
        raise InvalidTool(f"{shown}(): concurrency {concurrency}: at least 1 call must be able to run")
    if max_waiting < 0:
        raise InvalidTool(f"{shown}(): max_waiting {max_waiting}: give 0 or more")
    if max_run_s is not None and max_run_s <= 0:
        raise InvalidTool(f"{shown}(): max_run_s {max_run_s}: give a number of seconds above 0")


def _registration(shown: str, fields: dict[str, Any]) -> ToolRegistration:
    """The registration, read as the registry reads it. Raises InvalidTool where it would refuse it."""
    if not fields["description"]:
        raise InvalidTool(
            f"{shown}() has no description, by which models choose tools: write a docstring, or give "
            "tool(description=…)"
        )
    try:
        return decode(encode(fields), ToolRegistration)
    except InvalidRequest as e:
        raise InvalidTool(f"{shown}(): {e}" + (f" (at {e.path})" if e.path else "")) from e
