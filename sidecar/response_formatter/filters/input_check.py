"""What stands before the queue: whether a rule blocks what a request says."""

from sidecar.errors import InvalidRequest, TooCostly
from sidecar.models.codec import encode
from sidecar.models.request import InlineTool, JobRequest
from sidecar.response_formatter.filters import apart
from sidecar.response_formatter.filters.apart import is_done_at_once, with_source
from sidecar.response_formatter.filters.filtering import TextFiltering
from sidecar.response_formatter.filters.inputs import Place, places, refusal
from sidecar.response_formatter.filters.stream import Chain


class InputCheck:
    """One request before the rules that block. What registered tools give is looked at when it has come."""

    def __init__(self, chain: Chain, request: JobRequest) -> None:
        self._chain = with_source(
            chain._replace(rules=tuple(rule for rule in chain.rules if rule.action == "block"), judges=())
        )
        self._texts: list[Place] = []
        self._values: list[Place] = []
        if self._chain.rules:
            tools = [tool for tool in request.tools if isinstance(tool, InlineTool)]
            self._texts, self._values = places(request.messages or (), request.system, tools)

    @property
    def is_done_at_once(self) -> bool:
        values = [value for _, value in self._values]
        return is_done_at_once(self._chain, [text for _, text in self._texts]) and (
            not values or len(encode(values)) <= apart.MOST_INLINE_CHARS
        )

    def now(self) -> None:
        """Raise Permanent (`guardrail_blocked`) for an input that is blocked."""
        for path, text in self._texts:
            blocked = apart.show(self._chain, ((0, text),)).blocked
            if blocked is not None:
                raise refusal(blocked, path)
        if self._values:
            paths, values = zip(*self._values, strict=True)
            found = apart.screened(self._chain, values, paths).findings
            if found.blocked is not None:
                raise refusal(found.blocked, found.blocked_at)

    async def later(self, filtering: TextFiltering) -> None:
        """The same where it takes longer. Raises InvalidRequest where it takes too long."""
        try:
            shown = await filtering.shown(self._chain, [((0, text),) for _, text in self._texts])
            paths, values = [place.path for place in self._values], [place.said for place in self._values]
            found = (await filtering.values(self._chain, values, paths)).findings if values else None
        except TooCostly as e:
            raise too_long(e) from e
        for (path, _), one in zip(self._texts, shown, strict=False):
            if one.blocked is not None:
                raise refusal(one.blocked, path)
        if found is not None and found.blocked is not None:
            raise refusal(found.blocked, found.blocked_at)


def too_long(error: TooCostly) -> InvalidRequest:
    """The refusal of an input that takes more than its budget to filter."""
    return InvalidRequest(f"filtering the input {error.message}: send less text in one request", path="messages")
