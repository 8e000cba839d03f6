"""`python -m tests.support.wrong_clock run …`: a sidecar whose machine's clock is wrong by WRONG_CLOCK_S seconds.

SIGUSR1 sets the clock: it is wrong by WRONG_CLOCK_THEN_S from then on. Nothing of this is in the product: the
interpreter's wall clock is replaced before anything of the product is imported.
"""

import os
import signal
import sys
import time

_right, _right_ns = time.time, time.time_ns
_ahead_s = float(os.environ.get("WRONG_CLOCK_S", "0"))


def _time() -> float:
    return _right() + _ahead_s


def _time_ns() -> int:
    return _right_ns() + int(_ahead_s * 1e9)


def _set(*_: object) -> None:
    global _ahead_s
    _ahead_s = float(os.environ["WRONG_CLOCK_THEN_S"])


time.time, time.time_ns = _time, _time_ns

if __name__ == "__main__":
    from sidecar.__main__ import main

    signal.signal(signal.SIGUSR1, _set)
    sys.exit(main())
