from typing import Any

from sidecar.emulator.cache import CacheUse, PromptCache

POINT = {"cachePoint": {"type": "default"}}
LONG = "x" * 4 * 2_000


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def look(cache: PromptCache, *system: Any, region: str = "us-east-1") -> CacheUse | None:
    body = {"system": list(system), "messages": [{"role": "user", "content": [{"text": "hi"}]}]}
    return cache.look_up(body, model_id="m", region=region)


def test_a_prefix_is_written_once_and_read_after() -> None:
    cache = PromptCache(Time())
    assert look(cache, {"text": LONG}, POINT) == CacheUse(0, 2_000, "5m")
    assert look(cache, {"text": LONG}, POINT) == CacheUse(2_000, 0, "5m")
    assert look(cache, {"text": LONG + "y"}, POINT) == CacheUse(0, 2_001, "5m")


def test_a_longer_prefix_reads_the_shorter_one_and_writes_the_rest() -> None:
    cache = PromptCache(Time())
    look(cache, {"text": LONG}, POINT)
    assert look(cache, {"text": LONG}, POINT, {"text": LONG}, POINT) == CacheUse(2_000, 2_000, "5m")


def test_prefixes_expire_and_belong_to_a_region() -> None:
    time = Time()
    cache = PromptCache(time)
    look(cache, {"text": LONG}, POINT)
    assert look(cache, {"text": LONG}, POINT, region="eu-west-1") == CacheUse(0, 2_000, "5m")
    time.now = 301.0
    assert look(cache, {"text": LONG}, POINT) == CacheUse(0, 2_000, "5m")


def test_short_prefixes_are_not_cached_and_calls_without_points_have_no_cache() -> None:
    cache = PromptCache(Time())
    assert look(cache, {"text": "short"}, POINT) == CacheUse(0, 0, "5m")
    assert look(cache, {"text": LONG}) is None
