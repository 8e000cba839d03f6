"""CPU of the response formatter: a whole answer of 2 kB, and a delta of a stream, by what filters are on.

    ./dev bench filters [--repeats 5]

One thread, nothing else in it: process CPU time over many rounds, the median of the repeats.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sidecar.config.filters import PiiOptions, SecretsOptions
from sidecar.config.settings import Policy
from sidecar.models.call import ModelDelta, ModelReply
from sidecar.models.content import Message, TextBlock
from sidecar.models.facts import RunFacts
from sidecar.models.request import JobRequest
from sidecar.models.result import Usage
from sidecar.ports.bus import Lane
from sidecar.response_formatter import formatter
from sidecar.response_formatter.filters.pii import PiiDetector
from sidecar.response_formatter.filters.policy import FilterPolicies
from sidecar.response_formatter.filters.scanner import FilterRule, Scanner
from sidecar.response_formatter.filters.secrets import SecretDetector
from sidecar.runtime.bounded_work import BoundedWork
from tests.support.scripted_model import ScriptedModel
from tests.support.virtual_time import VirtualClock

SIZE = 2_048
PIECE = 12
UNARY_BAR_US = 100.0
DELTA_BAR_US = 5.0
LANE = Lane("acme", "standard")
HELLO = (Message(role="user", content="hello"),)

TEXTS = {
    "English": "JetStream keeps what was published until consumers had it, and streams decide how long. ",
    "German, with umlauts": "Die Größe der Nachrichten wird geprüft, bevor sie übertragen werden: für jede. ",
    "Chinese": "消息在流中保存，直到消费者确认为止；每个主题都有自己的限制。",
    "with addresses and numbers": "Ask jane.doe@example.com or +1 555 123 4567 about order 4711-12. ",
}
LARGE = {
    "English": TEXTS["English"],
    "source code": Path(__file__).read_text(),
    "a table of numbers": "".join(f"{n * 7919 % 9973},{n * 104729 % 1000003},{n / 7:.3f}\n" for n in range(2_000)),
    "numbers among words": "".join(
        f"row {n * 7919 % 9973} has {n * 104729 % 1000003} items. " for n in range(2_000)
    ),
}
RULES = (
    FilterRule("pii", "redact", PiiDetector(PiiOptions())),
    FilterRule("secrets", "redact", SecretDetector(SecretsOptions())),
)
CHAINS: dict[str, dict[str, Any]] = {
    "default": {},
    "pii": {"pii": {"kind": "pii"}},
    "secrets": {"secrets": {"kind": "secrets"}},
    "pii, secrets": {"pii": {"kind": "pii"}, "secrets": {"kind": "secrets"}},
}


def screening(configured: dict[str, Any]) -> FilterPolicies:
    policy = Policy.model_validate({"filters": configured, "tenants": {"default": {"filters": list(configured)}}})
    return FilterPolicies(policy, models=ScriptedModel(VirtualClock()), region="us-east-1", work=BoundedWork())


def reply_of(text: str) -> ModelReply:
    return ModelReply(
        content=(TextBlock(text=text),), stop_reason="end_turn", raw_stop_reason="end_turn", usage=Usage()
    )


async def measure(work: Callable[[], Awaitable[int]], *, repeats: int) -> float:
    """Microseconds of CPU for one of what `work` did, which says how many that were."""
    await work()
    found = []
    for _ in range(repeats):
        began = time.process_time()
        count = await work()
        found.append((time.process_time() - began) / count * 1e6)
    return statistics.median(found)


async def whole(screens: FilterPolicies, text: str, *, rounds: int = 200) -> int:
    """Formatting of whole answers: normal form, filters, digest."""
    request = JobRequest(messages=HELLO)
    for _ in range(rounds):
        screen = screens.screen(LANE, request, job="job1")
        await screen.answered(formatter.answered(reply_of(text), RunFacts()))
    return rounds


async def bare(text: str, *, rounds: int = 200) -> int:
    """The same without filters: what the formatter takes by itself."""
    for _ in range(rounds):
        formatter.answered(reply_of(text), RunFacts())
    return rounds


async def deltas(screens: FilterPolicies, text: str, *, rounds: int = 20) -> int:
    pieces = [ModelDelta(index=0, text=text[at : at + PIECE]) for at in range(0, len(text), PIECE)]
    request = JobRequest(messages=HELLO, stream=True)
    for _ in range(rounds):
        gate = screens.screen(LANE, request, job="job1").gate
        if gate is not None:
            for piece in pieces:
                gate.take(piece)
            await gate.finish()
    return rounds * len(pieces)


def scanned(text: str) -> Callable[[], Awaitable[int]]:
    """Finding alone, as a worker process does it."""

    async def work() -> int:
        scanner = Scanner(RULES, lambda rule, kind: None)
        scanner.feed(text, is_end=True)
        return 1

    return work


async def by_size(repeats: int) -> None:
    """`pii` and `secrets` on an answer, and on a prompt that is filtered away from the event loop."""
    print("\n| text | 4 kB, ms (bar 0.5) | 900 kB, ms (bar 120) |")
    print("| --- | --- | --- |")
    for name, sentence in LARGE.items():
        figures = []
        for size in (4_096, 900_000):
            text = (sentence * (size // len(sentence) + 1))[:size]
            figures.append(await measure(scanned(text), repeats=repeats) / 1000)
        answer_ms, prompt_ms = figures
        missed = ["" if figure <= bar else " missed" for figure, bar in ((answer_ms, 0.5), (prompt_ms, 120))]
        print(f"| {name} | {answer_ms:.2f}{missed[0]} | {prompt_ms:.0f}{missed[1]} |")


async def run(repeats: int) -> None:
    print("| text | filters | whole answer, µs (bar 100) | of it filters, µs | delta, µs (bar 5) |")
    print("| --- | --- | --- | --- | --- |")
    for name, sentence in TEXTS.items():
        text = (sentence * (SIZE // len(sentence) + 1))[:SIZE]
        alone = await measure(lambda text=text: bare(text), repeats=repeats)  # type: ignore[misc]
        for chain, configured in CHAINS.items():
            screens = screening(configured)
            unary = await measure(lambda s=screens, t=text: whole(s, t), repeats=repeats)  # type: ignore[misc]
            delta = await measure(lambda s=screens, t=text: deltas(s, t), repeats=repeats)  # type: ignore[misc]
            missed = chain == "default" and (unary > UNARY_BAR_US or delta > DELTA_BAR_US)
            mark = " missed" if missed else ""
            print(f"| {name} | {chain} | {unary:.1f} | {unary - alone:.1f} | {delta:.2f}{mark} |")
    await by_size(repeats)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="./dev bench filters", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    asyncio.run(run(parser.parse_args().repeats))
