"""What strangers wrote where documents of the product are expected: counted, and told of."""

import logging
import time
from collections import Counter
from collections.abc import Callable

from sidecar.models.shown import shown

log = logging.getLogger(__name__)

TELL_EVERY_S = 60.0
_QUOTED = 120


class ForeignWrites:
    """Counts by bucket. A warning for the first of each, then at most one a minute: strangers set the pace."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.counts: Counter[str] = Counter()
        self._now = now
        self._told: dict[str, tuple[float, int]] = {}

    def met(self, bucket: str, *, subject: str, seq: int, payload: bytes) -> None:
        """One was met. `seq` is 0 where it was heard and not read."""
        self.counts[bucket] += 1
        now, count = self._now(), self.counts[bucket]
        at, told = self._told.get(bucket, (float("-inf"), 0))
        if now - at < TELL_EVERY_S:
            return
        self._told[bucket] = now, count
        log.warning(
            "a message that neither a replica nor an operator wrote is not believed",
            extra={
                "bucket": bucket,
                "subject": shown(subject),
                "seq": seq,
                "payload": shown(payload[:_QUOTED].decode("utf-8", "replace"), _QUOTED),
                "since_last_warning": count - told,
            },
        )
