"""What flows in and what flowed: token buckets, and sums over the last seconds. Pure."""

from math import inf


class Bucket:
    """Tokens that flow in at `rate` a second up to `cap`. The level may be negative: a debt is paid by waiting."""

    __slots__ = ("at", "cap", "level", "rate")

    def __init__(self, rate: float, cap: float, *, now: float) -> None:
        self.rate = rate
        self.cap = cap
        self.level = cap
        self.at = now

    def refill(self, now: float) -> None:
        """Let flow in what the time since the last call has brought."""
        if now > self.at:
            level = self.level + self.rate * (now - self.at)
            self.level = level if level < self.cap else self.cap
            self.at = now

    def add(self, amount: float) -> None:
        """Put back, up to the cap; or take, down into debt."""
        level = self.level + amount
        self.level = level if level < self.cap else self.cap

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` is there, by the level of the last refill."""
        missing = amount - self.level
        if missing <= 0:
            return 0.0
        return missing / self.rate if self.rate > 0 else inf


class Recent:
    """A sum over about the last `seconds` seconds, kept by whole seconds."""

    __slots__ = ("_at", "_sums")

    def __init__(self, seconds: int) -> None:
        self._sums = [0.0] * seconds
        self._at = 0

    def add(self, amount: float, now: float) -> None:
        self._advance(int(now))
        self._sums[self._at % len(self._sums)] += amount

    def sum(self, now: float) -> float:
        self._advance(int(now))
        return sum(self._sums)

    def _advance(self, second: int) -> None:
        for at in range(max(self._at + 1, second - len(self._sums) + 1), second + 1):
            self._sums[at % len(self._sums)] = 0.0
        self._at = max(self._at, second)
