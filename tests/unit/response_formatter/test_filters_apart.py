"""Filters in worker processes give what they give here."""

from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecar.config.settings import Policy
from sidecar.errors import InvalidRequest, Permanent
from sidecar.models.content import JsonBlock, Message, TextBlock, ToolResultBlock, ToolUseBlock
from sidecar.models.event import ToolActivity
from sidecar.models.request import JobRequest
from sidecar.models.result import ErrorInfo, Output, Result
from sidecar.ports.bus import Lane
from sidecar.response_formatter.filters import apart
from sidecar.response_formatter.filters.inputs import places
from sidecar.response_formatter.filters.policy import FilterPolicies
from sidecar.runtime.bounded_work import BoundedWork
from tests.support.bedrock_calls import call
from tests.support.work import TooDear, WorkHere

FILTERS: dict[str, Any] = {
    "pii": {"kind": "pii", "options": {"on": ["input", "output", "tools"]}},
    "keys": {"kind": "secrets", "options": {"on": ["output", "tools"]}},
    "words": {"kind": "blocklist", "action": "flag", "options": {"words": ["acme corp"], "on": ["output"]}},
    "never": {"kind": "blocklist", "action": "block", "options": {"patterns": ["for[b]idden"], "on": ["input"]}},
}
NOBODY: Any = None
"""No filter here asks a model."""
LANE = Lane("acme", "standard")
PIECES = (
    "jane.doe@example.com", "+49 30 1234567", "DE89 3704 0044 0532 0130 00", "password = hunter2hunter2",
    "ghp_0123456789abcdefghij0123456789abcdef", "acme corp", " ", "\n", "plain words, no more", "\u200b", "\ud83d",
    "\udc31", "ü", "0", "@", "1", "\x07", "🏴",
)  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
# In values an adapter has replaced halves of surrogate pairs before.
WHOLE = TEXTS.map(lambda text: text.encode("utf-8", "replace").decode())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 10**16) | WHOLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WHOLE, inner, max_size=3),
    max_leaves=6,
)


class WithoutWork(BoundedWork):
    """Here, all is done at once, however long it is."""

    async def run(self, tenant: str, function: Any, /, *args: Any, **named: Any) -> Any:
        return function(*args, **named)


def policies(work: BoundedWork) -> FilterPolicies:
    names = ["pii", "keys", "words", "never"]
    policy = Policy.model_validate({"filters": FILTERS, "tenants": {"acme": {"filters": names}}})
    return FilterPolicies(policy, models=NOBODY, region="us-east-1", work=work)


HERE, APART = policies(WithoutWork()), policies(WorkHere())
REQUEST = JobRequest(messages=(Message(role="user", content="hello"),))


@pytest.fixture
def nothing_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is filtered with `WorkHere` goes the way of what is long."""

    def is_done_at_once(chain: Any, texts: Any) -> bool:
        return False

    monkeypatch.setattr("sidecar.response_formatter.filters.filtering.is_done_at_once", is_done_at_once)
    monkeypatch.setattr(apart, "MOST_INLINE_BYTES", 0)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, min_size=1, max_size=3), TEXTS, VALUES, VALUES)
@pytest.mark.usefixtures("nothing_is_short")
async def test_an_answer(texts: list[str], reasoning: str, value: Any, taken: Any) -> None:
    content = [{"type": "text", "text": text} for text in texts]
    content += [{"type": "reasoning", "text": reasoning, "signature": "s"}]
    content += [
        {"type": "tool_use", "id": "t", "name": "n", "input": {"a": taken}},
        {"type": "other", "value": value},
    ]
    messages = (
        {"role": "assistant", "content": [{"type": "text", "text": reasoning}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": value}]},
        {"role": "user", "content": texts[0]},
    )
    output = Output(text="".join(texts), content=tuple(content), structured=value, messages=messages)
    result = Result(state="succeeded", output=output, error=ErrorInfo(code="output_invalid", message=texts[0]))
    seen = [await made.screen(LANE, REQUEST, job="a").answered(result) for made in (HERE, APART)]
    assert seen[0] == seen[1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, min_size=1, max_size=3), VALUES)
@pytest.mark.usefixtures("nothing_is_short")
async def test_an_input(texts: list[str], value: Any) -> None:
    asked = call(*conversation(texts, value), system=texts[0])
    seen = []
    for made in (HERE, APART):
        chain = made.screen(LANE, REQUEST, job="a")
        seen.append((msgspec.to_builtins(await chain.input(asked)), chain._input and chain._input.reports))
    assert seen[0] == seen[1]


def conversation(texts: list[str], value: Any) -> tuple[Message, ...]:
    result = ToolResultBlock(tool_use_id="t", content=(TextBlock(text=texts[-1]), JsonBlock(value=value)))
    return (
        Message(role="user", content=texts[0]),
        Message(role="assistant", content=(ToolUseBlock(id="t", name="n", input={}),)),
        Message(role="user", content=(result, *(TextBlock(text=text) for text in texts))),
    )


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES, VALUES, TEXTS)
@pytest.mark.usefixtures("nothing_is_short")
async def test_a_tools_events(taken: Any, gave: Any, message: str) -> None:
    activity = ToolActivity(
        phase="failed",
        tool="n",
        input={"a": taken},
        output=gave,
        error=ErrorInfo(code="tool_failed", message=message),
    )
    seen = []
    for made in (HERE, APART):
        look = made.screen(LANE, REQUEST, job="a").screen_event
        assert look is not None
        seen.append(msgspec.to_builtins(await look(activity)))
    assert seen[0] == seen[1]


async def test_what_is_short_stays_here_and_what_is_long_does_not() -> None:
    work = WorkHere()
    chain = policies(work).screen(LANE, REQUEST, job="a")
    await chain.answered(Result(state="succeeded", output=of_text("x@y.com " * 100)))
    assert not work.done
    result = await chain.answered(Result(state="succeeded", output=of_text("x@y.com " * 1_000)))
    assert result.output.text == "[EMAIL] " * 1_000
    assert work.done["show_texts"] == 1


async def test_long_text_without_rules_goes_away_only_where_the_sanitiser_has_something_to_do() -> None:
    work = WorkHere()
    made = FilterPolicies(Policy(), models=NOBODY, region="us-east-1", work=work)
    chain = made.screen(LANE, REQUEST, job="a")
    await chain.answered(Result(state="succeeded", output=of_text("plain " * 10_000)))
    assert not work.done
    result = await chain.answered(Result(state="succeeded", output=of_text("a\u200b" * 20_000)))
    assert result.output.text == "a" * 20_000
    assert work.done["show_texts"] == 1


def of_text(text: str) -> Output:
    return Output(text=text, content=({"type": "text", "text": text},))


@pytest.mark.parametrize(
    ("content", "code"), [("this is forbidden " * 1_000, "guardrail_blocked"), ("this is fine " * 1_000, None)]
)
async def test_a_long_input_is_checked_before_the_queue(content: str, code: str | None) -> None:
    work = WorkHere()
    made = policies(work)
    request = JobRequest(messages=(Message(role="user", content=content),))
    check = made.check(LANE, request)
    assert check is not None
    assert not check.is_done_at_once
    if code is None:
        await made.check_later(LANE, check)
    else:
        with pytest.raises(Permanent) as refused:
            await made.check_later(LANE, check)
        assert (refused.value.code, refused.value.details["path"]) == (code, "messages[0].content")
    assert work.done["show_texts"] == 1


async def test_what_takes_too_long_is_a_typed_error_that_shows_nothing() -> None:
    made = policies(TooDear())
    long = "x@y.com " * 1_000
    request = JobRequest(messages=(Message(role="user", content=long),))
    check = made.check(LANE, request)
    assert check is not None
    with pytest.raises(InvalidRequest) as refused:
        await made.check_later(LANE, check)
    assert refused.value.path == "messages"
    chain = made.screen(LANE, request, job="a")
    with pytest.raises(InvalidRequest):
        await chain.input(call(*(request.messages or ())))
    with pytest.raises(Permanent) as withheld:
        await chain.answered(Result(state="succeeded", output=of_text(long)))
    assert withheld.value.code == "guardrail_blocked"
    assert "2 s" in withheld.value.message
    look = chain.screen_event
    assert look is not None
    with pytest.raises(Permanent) as untold:
        await look(ToolActivity(phase="returned", tool="mail", output=long))
    assert untold.value.code == "guardrail_blocked"


async def test_real_workers_filter_as_this_process_does() -> None:
    work = BoundedWork()
    try:
        chain = policies(work).screen(LANE, REQUEST, job="a")
        result = await chain.answered(Result(state="succeeded", output=of_text("jane.doe@example.com, " * 1_000)))
        assert result.output.text == "[EMAIL], " * 1_000
        assert work.done["show_texts"] == 1
    finally:
        await work.close()


def test_paths_of_texts_cost_no_more_than_the_texts() -> None:
    value: Any = ["x"] * 2_000
    for _ in range(50):
        value = {"k" * 5_000: value}
    message = conversation(["a"], value)
    assert sum(len(path) for path, _ in places(message, None)[0] + places(message, None)[1]) < 2_000 * 500


async def test_a_members_long_name_is_read_once() -> None:
    work = WorkHere()
    look = policies(work).screen(LANE, REQUEST, job="a").screen_event
    assert look is not None
    seen = await look(ToolActivity(phase="returned", tool="t", output={"k" * 200_000: list(range(20_000))}))
    assert seen.output == {"k" * 200_000: list(range(20_000))}
