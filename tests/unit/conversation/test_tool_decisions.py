"""What is decided about tool calls, as pure functions: plans, strikes, bounds, outputs, journals."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.conversation import tool_output, tool_turn
from sidecar.conversation.tool_turn import OfferedTool
from sidecar.errors import Permanent, SidecarError
from sidecar.job_manager import journal as journals
from sidecar.job_manager.journal import Bill, Pin, Step, StepJournal, StoredResult, TurnAnswer
from sidecar.models.call import ToolSpec
from sidecar.models.codec import encode
from sidecar.models.content import Message, TextBlock, ToolResultBlock, ToolUseBlock
from sidecar.models.facts import RunFacts
from sidecar.models.result import Attempt, Usage
from sidecar.models.tool import ToolInfo
from tests.support.work import now

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def offered(name: str, *, idempotent: bool = False) -> OfferedTool:
    spec = ToolSpec(name=name, description=name, input_schema={"type": "object"})
    info = ToolInfo(
        scope="acme",
        name=name,
        version="1.0.0",
        description=name,
        input_schema={"type": "object"},
        output_schema=None,
        timeout_s=30.0,
        idempotent=idempotent,
        subject=f"llm.v1.call.acme.{name}.1_0_0",
        expires=None,
    )
    return OfferedTool(
        spec=spec, pin=Pin(name=name, scope="acme", version="1.0.0", idempotent=idempotent), info=info
    )


TOOLS = {tool.name: tool for tool in (offered("a"), offered("b", idempotent=True))}


def use(name: str, place: int = 0, **given: Any) -> ToolUseBlock:
    return ToolUseBlock(id=f"{name}{place}", name=name, input=given)


def answer(*blocks: ToolUseBlock) -> TurnAnswer:
    return TurnAnswer(content=blocks, stop_reason="tool_use", raw_stop_reason="tool_use")


def kept(call: int, outcome: journals.Outcome = "returned", use_id: str = "x") -> StoredResult:
    return StoredResult(call=call, outcome=outcome, block=ToolResultBlock(tool_use_id=use_id, content="r"))


def turns(*outcomes: journals.Outcome) -> StepJournal:
    """A journal with one call of `a` a turn."""
    found = StepJournal()
    for number, outcome in enumerate(outcomes, start=1):
        found = found.after(
            Step(number=number, turn=number, answer=answer(use("a", number)), results=(kept(0, outcome),))
        )
    return found


def test_calls_are_split_by_who_makes_them() -> None:
    made = tool_turn.plan(
        StepJournal(),
        turn=1,
        calls=[use("a"), use("mine"), use("b", bad=1), use("nobody")],
        offered=TOOLS,
        inline=frozenset({"mine"}),
        problems={2: "bad is bad", 3: "there is no tool"},
    )
    assert [(wanted.call, wanted.tool.name) for wanted in made.calls] == [(0, "a")]
    assert [(one.call, one.outcome) for one in made.settled] == [(2, "invalid"), (3, "invalid")]
    assert made.for_client == 1
    assert tool_turn.unmarked(made.calls) == (0,)


@pytest.mark.parametrize(
    ("before", "is_over"),
    [
        ((), False),
        (("invalid",), False),
        (("invalid", "invalid"), True),
        (("invalid", "invalid", "returned"), False),
        (("invalid", "returned", "invalid"), False),
        (("returned", "failed", "invalid", "invalid"), True),
    ],
)
def test_an_unusable_input_is_told_twice_in_a_row(before: tuple[journals.Outcome, ...], is_over: bool) -> None:
    def again() -> tool_turn.Plan:
        return tool_turn.plan(
            turns(*before),
            turn=9,
            calls=[use("a"), use("a", 1)],
            offered=TOOLS,
            inline=frozenset(),
            problems={0: "no", 1: "no"},
        )

    if is_over:
        with pytest.raises(Permanent) as ended:
            again()
        assert ended.value.code == "tool_failed"
    else:
        assert len(again().settled) == 2, "both calls of one turn are one strike"


async def takes_all(tenant: str, tool: ToolInfo, value: Any) -> str | None:
    return None


def test_problems_are_those_of_calls_that_the_sidecar_makes() -> None:
    async def check(tenant: str, tool: ToolInfo, value: Any) -> str | None:
        assert tenant == "acme"
        return "bad is bad" if "bad" in value else None

    calls = [use("a"), use("mine", bad=1), use("b", bad=1), use("nobody")]
    problems = now(
        tool_turn.problems_of("acme", calls, offered=TOOLS, inline=frozenset({"mine"}), unreadable={}, check=check)
    )
    assert problems[2] == "bad is bad"
    assert "there is no tool named 'nobody'" in problems[3]
    assert len(problems) == 2


def test_input_that_nests_too_deep_is_unusable() -> None:
    deep: Any = {}
    for _ in range(80):
        deep = {"a": deep}
    problems = now(
        tool_turn.problems_of(
            "acme", [use("a", **deep)], offered=TOOLS, inline=frozenset(), unreadable={}, check=takes_all
        )
    )
    assert "nested deeper" in problems[0]
    made = tool_turn.plan(
        StepJournal(),
        turn=1,
        calls=[use("a", **deep)],
        offered=TOOLS,
        inline=frozenset(),
        problems=problems,
    )
    assert made.calls == ()


def test_bounds_count_calls_that_were_made() -> None:
    made = tool_turn.Plan(calls=(), settled=(kept(0, "invalid"),), for_client=0)
    tool_turn.check_bounds(turns("invalid", "invalid"), made, turn=3, max_turns=4, max_calls=0)
    with pytest.raises(Permanent, match="max_turns"):
        tool_turn.check_bounds(turns(), made, turn=4, max_turns=4, max_calls=9)
    wanted = tool_turn.PlannedCall(turn=3, call=0, block=use("a"), tool=TOOLS["a"])
    with pytest.raises(Permanent, match="max_tool_calls"):
        tool_turn.check_bounds(
            turns("returned", "failed"), made._replace(calls=(wanted,)), turn=3, max_turns=9, max_calls=2
        )


def test_a_last_turn_that_the_client_goes_on_from_is_not_one_too_many() -> None:
    made = tool_turn.Plan(calls=(), settled=(), for_client=1)
    tool_turn.check_bounds(turns(), made, turn=4, max_turns=4, max_calls=0)


@pytest.mark.parametrize(
    ("sent", "on_unknown", "made", "told"),
    [
        (frozenset(), "tell", ["a", "b"], []),
        (frozenset({0, 1}), "tell", ["b"], ["a0"]),
        (frozenset({0, 1}), "repeat", ["a", "b"], []),
    ],
)
def test_what_a_new_owner_does_about_calls_without_result(
    sent: frozenset[int], on_unknown: Any, made: list[str], told: list[str]
) -> None:
    turn = journals.JournalledTurn(
        number=2, answer=answer(use("a"), use("b"), use("mine"), use("b", 3)), sent=sent
    )
    turn = msgspec.structs.replace(turn, results=(kept(3),))
    rest = tool_turn.resume(turn, offered=TOOLS, inline=frozenset({"mine"}), on_unknown=on_unknown)
    assert [wanted.tool.name for wanted in rest.calls] == made
    assert [one.block.tool_use_id for one in rest.settled] == told


@given(st.lists(st.sampled_from(["u", "u_2", "v", "w" * 256]), max_size=6))
def test_ids_are_told_apart(ids: list[str]) -> None:
    said = [ToolUseBlock(id=i, name="a") for i in ids]
    before = [Message(role="assistant", content=(ToolUseBlock(id="u", name="a"),))]
    found = tool_turn.distinct((TextBlock(text="x"), *said), before)
    uses = [block.id for block in found if isinstance(block, ToolUseBlock)]
    assert len(set(uses)) == len(ids)
    assert "u" not in uses
    assert all(len(i) <= 256 for i in uses)


@given(JSON)
def test_outputs_survive_or_are_cut_and_say_so(value: Any) -> None:
    clean = tool_output.clean(tool_output.parse(encode(value)))
    assert tool_output.clean(clean) == clean
    said = tool_output.shown("u", clean, most_bytes=256)
    if said.cut_from is None:
        assert said.value == clean
    else:
        assert said.cut_from > 256
        assert isinstance(said.block.content, str)
        assert len(said.block.content.encode()) < 256 + 100
        assert "cut" in said.block.content
    encode(said.block)


def read_code(payload: bytes) -> str:
    try:
        tool_output.clean(tool_output.parse(payload))
    except Permanent as e:
        return e.code
    return "ok"


@given(st.binary(max_size=200))
def test_any_bytes_are_an_output_or_a_failure(payload: bytes) -> None:
    assert read_code(payload) in ("ok", "tool_failed")


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    left = tool_output.clean({text: [text]})
    for char in "".join(left) + "".join(left[next(iter(left))]):
        assert char in "\t\n\r" or not (ord(char) < 32 or 127 <= ord(char) < 160)


@given(st.lists(st.integers(0, 6), max_size=20))
def test_repeated_steps_change_nothing(order: list[int]) -> None:
    steps = [
        Step(number=1, turn=1, pins=(TOOLS["a"].pin,), answer=answer(use("a"), use("b")), sent=(0,)),
        Step(number=2, turn=1, results=(kept(1, use_id="b0"),)),
        Step(number=3, turn=1, results=(kept(0, use_id="a0"),)),
        Step(number=4, turn=2, answer=answer(use("a", 1)), sent=(0,)),
        Step(number=5, turn=2, results=(kept(0, use_id="a1"),)),
    ]
    whole = journals.read(encode(step) for step in steps)
    doubled = []
    for number, step in enumerate(steps):
        doubled.append(step)
        doubled += [steps[i] for i in order if i <= number and i < len(steps)]
    assert journals.read(encode(step) for step in doubled) == whole
    said = whole.messages()
    assert [message.role for message in said] == ["assistant", "user", "assistant", "user"]
    assert [block.tool_use_id for block in said[1].content if isinstance(block, ToolResultBlock)] == ["a0", "b0"]


def test_what_is_no_journal_is_said_to_be_none() -> None:
    with pytest.raises(SidecarError, match="cannot be read"):
        journals.read([b'{"number": 1, "turn": "of the next version"}'])
    with pytest.raises(SidecarError, match="never began"):
        journals.read([encode(Step(number=1, turn=1, results=(kept(0),)))])


def test_what_strangers_put_into_a_journal_is_passed_over() -> None:
    step = encode(
        Step(number=1, turn=1, answer=TurnAnswer(content=(), stop_reason="end_turn", raw_stop_reason=""))
    )
    strange = (b"", b"garbage", b'{"stream":"LLM_REQ","seq":7}', b'{"number": -1}', b"[1]")
    assert journals.read([*strange, step, *strange]) == journals.read([step])
    assert journals.has_come_on([*strange, step], attempt=1)


def bill(tokens: int, calls: int) -> Bill:
    return Bill(
        usage=Usage(input_tokens=tokens),
        usage_basis="observed",
        cost_usd=1.0,
        counted_micro_usd=7,
        attempts=tuple(Attempt(model_id="m", region="r", outcome="ok") for _ in range(calls)),
    )


def crashed(attempt: int) -> Attempt:
    usage = Usage(input_tokens=5)
    return Attempt(model_id="m", region="r", outcome="crashed", attempt=attempt, usage=usage, cost_usd=0.5)


def test_the_journals_account_replaces_an_estimate_of_the_same_call() -> None:
    facts = RunFacts(usage=Usage(input_tokens=5), cost_usd=0.5, usage_basis="estimated", attempts=[crashed(1)])
    facts.warn("the replica that ran attempt 1 fell silent: what its call took is estimated")
    journals.restore(facts, bill(100, 2), lost=[])
    assert (facts.usage, facts.cost_usd, facts.usage_basis) == (Usage(input_tokens=100), 1.0, "observed")
    assert facts.warnings == []
    assert facts.counted_micro_usd == 7


def test_a_call_that_really_was_lost_comes_on_top() -> None:
    facts = RunFacts(usage=Usage(input_tokens=5), cost_usd=0.5, usage_basis="estimated", attempts=[crashed(1)])
    journals.restore(facts, bill(100, 2), lost=[crashed(1)])
    assert (facts.usage, facts.cost_usd, facts.usage_basis) == (Usage(input_tokens=105), 1.5, "estimated")
    assert [call.outcome for call in facts.attempts] == ["ok", "ok", "crashed"]


def test_an_account_that_was_handed_over_later_than_the_last_step_stands() -> None:
    calls = [Attempt(model_id="m", region="r", outcome=o) for o in ("ok", "ok", "cancelled")]
    facts = RunFacts(usage=Usage(input_tokens=130), cost_usd=2.0, attempts=calls)
    journals.restore(facts, bill(100, 2), lost=[])
    assert (facts.usage, facts.cost_usd) == (Usage(input_tokens=130), 2.0)
