"""How often a stranger may reply to one request. Pure."""


class ReplyRate:
    """So many within a second, counted from the first of them."""

    def __init__(self, most_per_s: int) -> None:
        self.most_per_s = most_per_s
        self._since = float("-inf")
        self._count = 0

    def allows(self, now: float) -> bool:
        """Whether another one, at `now` in seconds, is not too many."""
        if now - self._since >= 1.0:
            self._since = now
            self._count = 0
        self._count += 1
        return self._count <= self.most_per_s
