"""Jobs that come back from their workers unended: how long each waits before it is granted again, and how often.

The first two times are no sign of trouble: a replica that drains hands back, and a claim can come late.
"""

MOST = 20
FIRST_S = 0.1
LONGEST_S = 5.0


class VainGrants:
    """Counts them, by the sequence of the job's request."""

    def __init__(self) -> None:
        self._times: dict[int, int] = {}

    def count(self, seq: int) -> int:
        """One more. Returns how many there were."""
        times = self._times[seq] = self._times.get(seq, 0) + 1
        return times

    def forget(self, seq: int) -> None:
        self._times.pop(seq, None)


def delay_s(times: int) -> float:
    """How long a job waits that came back for the `times`-th time."""
    return 0.0 if times <= 2 else min(FIRST_S * 2 ** (times - 3), LONGEST_S)
