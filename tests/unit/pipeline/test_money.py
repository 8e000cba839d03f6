"""The money: each call's bill, their sum, and what the emulator says it charged.

Calls go wrong by chance, in all the ways that cost something and that cost nothing, whole and streamed.
"""

import random

import pytest

from sidecar.models.result import Usage
from tests.support.emulated_bedrock import emulated
from tests.support.jetstream.server import FakeJetStream
from tests.support.replica import MODEL, Bench
from tests.support.virtual_time import VirtualClock
from tests.unit.pipeline.test_bounded_calls import check_bill

FREE = ["[[fault=throttling]]", "[[fault=unavailable]]", "[[fault=internal]]"]
WELL = ["", "[[tokens=40]]", "[[tokens=40 cache_read=30 cache_write=20]]"]
COSTLY = {
    False: ["[[fault=model_error]]", "[[fault=model_timeout]]", "[[fault=empty]]", "[[fault=cut]]"],
    True: [
        "[[fault=model_error]]",
        "[[tokens=40 fault=reset at=mid]]",
        "[[tokens=40 fault=cut]]",
        "[[tokens=40 fault=model_stream_error at=mid]]",
        "[[tokens=40 fault=missing_stop]]",
        "[[tokens=40 fault=throttling at=mid]]",
    ],
}


@pytest.mark.parametrize("seed", range(24))
async def test_calls_bills_make_the_jobs_and_are_what_was_charged(seed: int) -> None:
    chance = random.Random(seed)
    is_stream = chance.random() < 0.5
    story = [chance.choice([*FREE, *COSTLY[is_stream]]) for _ in range(chance.randrange(4))]
    story.append(chance.choice([*WELL, "[[fault=missing_usage]]", *([] if is_stream else ["null"])]))
    client, way = emulated(story)
    clock = VirtualClock()
    b = Bench(client, clock, FakeJetStream(clock))  # type: ignore[arg-type]
    try:
        (replica,) = await b.fleet("one")
        request = {"messages": [{"role": "user", "content": "word " * 80}], "stream": is_stream}
        job = await b.submit({**request, "model": chance.choice([MODEL, [MODEL], None]), "timeout_s": 3_600})
        result = await b.result(job)
        check_bill(result)
        records = list(way.service.journal.calls)
        assert len(records) == len(result.attempts), story
        for call, record in zip(result.attempts, records, strict=True):
            charged = Usage(
                input_tokens=record.charged_input_tokens,
                output_tokens=record.charged_output_tokens,
                cache_read_tokens=record.charged_cache_read_tokens,
                cache_write_tokens=record.charged_cache_write_tokens,
            )
            if call.usage_basis == "observed":
                assert call.usage == charged, story
                pool = f"{call.model_id}@{call.region}"
                assert call.cost_usd == pytest.approx(replica.coordinator.price_on(pool, charged)), story
            else:
                # Nothing is told of what broke off, but whether it may have cost something is.
                assert bool(call.may_be_billed) == (charged != Usage()), story
        if all(call.usage_basis == "observed" for call in result.attempts if call.may_be_billed):
            total = sum(record.charged_output_tokens for record in records)
            assert (result.usage.output_tokens, result.usage_basis) == (total, "observed")
    finally:
        await b.close()
    assert not b.crashes
