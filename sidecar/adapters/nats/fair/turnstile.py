"""Whose request is answered next: round robin over the parties, with bounds for each and for all. Pure.

A party is a tenant, the scope `shared`, or the service's own subjects; requests of one party are taken in order.
What a party may hold is bounded by its own limit and by what is free, so that those who hold much leave room: of
a total that is smaller than twice its limit a lone party gets half. A party that holds nothing may have its first
one also where all is taken, up to a quarter more.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")

# What a reply is taken to weigh, in bytes, until the first one of its party and kind is there.
FIRST_GUESS = 4096
# So many parties are remembered, and how large their replies are, while they hold nothing.
_MOST_IDLE = 1024
# Requests of so many bytes wait before they count more than one by their number.
_LEAST_SIZE = 256


class Bound(NamedTuple):
    """The most of something, of one party and of all together."""

    each: int
    total: int

    def allows(self, own: int, every: int) -> bool:
        """Whether a party that holds `own` of what `every` party holds together may have more."""
        if own:
            return own < self.each and own < self.total - every
        return every < self.total + self.total // 4


class Bounds(NamedTuple):
    """`seats`: requests being answered. `waiting`, `waiting_bytes`: requests that are not begun yet.
    `reply_bytes`: replies made, or expected of what is being answered, and not handed to the connection yet.
    `asks`: open requests whose answer is a job's result. `wait_s`: how long a request waits before it is given up.
    """

    seats: Bound
    waiting: Bound
    waiting_bytes: Bound
    reply_bytes: Bound
    asks: Bound
    wait_s: float


class Ration:
    """So many a second, the first `per_s` of them at once."""

    def __init__(self, per_s: float) -> None:
        self._per_s = per_s
        self._left = per_s
        self._at = float("-inf")

    def take(self, now: float) -> bool:
        self._left = min(self._per_s, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class EndpointLoad(NamedTuple):
    """What a party, or all together, hold at this moment."""

    seats: int = 0
    waiting: int = 0
    reply_bytes: int = 0
    asks: int = 0


class _Held:
    """Running counts; of one party, and of all."""

    __slots__ = ("asks", "parked", "reply_bytes", "seats", "waiting", "waiting_bytes")

    def __init__(self) -> None:
        self.seats = self.waiting = self.waiting_bytes = self.reply_bytes = self.asks = self.parked = 0

    @property
    def load(self) -> EndpointLoad:
        return EndpointLoad(self.seats, self.waiting, self.reply_bytes, self.asks)


class _Waiting(NamedTuple, Generic[T]):
    item: T
    until: float
    size: int
    kind: Hashable
    seats: int
    is_ask: bool


class _Party(_Held, Generic[T]):
    __slots__ = ("guesses", "name", "queue")

    def __init__(self, name: Hashable) -> None:
        super().__init__()
        self.name = name
        self.queue: deque[_Waiting[T]] = deque()
        self.guesses: dict[Hashable, int] = {}


class Admitted(Generic[T]):
    """One request that is being answered. `close` gives everything back; it may be called twice."""

    __slots__ = ("_bytes", "_is_open", "_party", "_turnstile", "_waited", "item")

    def __init__(self, turnstile: "Turnstile[T]", party: _Party[T], waited: _Waiting[T]) -> None:
        self._turnstile = turnstile
        self._party = party
        self._waited = waited
        self._is_open = True
        self._bytes = 0
        self.item = waited.item
        self._take(waited.seats, party.guesses.get(waited.kind, FIRST_GUESS) if party.guesses else FIRST_GUESS)

    @property
    def party(self) -> Hashable:
        return self._party.name

    def made(self, size: int) -> None:
        """A reply of `size` bytes is there: it counts in place of what was expected."""
        guess = self._party.guesses.get(self._waited.kind, FIRST_GUESS)
        # The largest of late, slowly forgotten: requests of one kind tend to have replies of one size.
        self._party.guesses[self._waited.kind] = max(size, guess - guess // 8)
        self._take(0, size - self._bytes)

    @contextmanager
    def parked(self) -> Iterator[None]:
        """While inside, the request only waits for somebody else's work, and holds no seat.

        So many of a party may do so as it may have asks; one beyond them keeps its seat.
        """
        held, every = self._party, self._turnstile._all
        if not self._turnstile.bounds.asks.allows(held.parked, every.parked):
            yield
            return
        expected = self._bytes
        self._take(-self._waited.seats, -expected)
        held.parked += 1
        every.parked += 1
        self._turnstile._freed()
        try:
            yield
        finally:
            held.parked -= 1
            every.parked -= 1
            self._take(self._waited.seats, expected)

    def close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._take(-self._waited.seats, -self._bytes)
            self._turnstile._closed(self._party, self._waited)

    def _take(self, seats: int, size: int) -> None:
        party, every = self._party, self._turnstile._all
        self._bytes += size
        party.seats += seats
        party.reply_bytes += size
        every.seats += seats
        every.reply_bytes += size


class Turnstile(Generic[T]):
    """Requests wait here. `on_free` is called when a seat may have become free for one that waits."""

    def __init__(self, bounds: Bounds, *, on_free: Callable[[], None]) -> None:
        self.bounds = bounds
        self.on_free = on_free
        self._parties: dict[Hashable, _Party[T]] = {}
        # The parties that have requests waiting, the next one to be served first.
        self._ring: deque[_Party[T]] = deque()
        self._all = _Held()
        self._late: list[T] = []

    @property
    def load(self) -> EndpointLoad:
        return self._all.load

    @property
    def is_full(self) -> bool:
        """Whether those who hold nothing are in what is theirs beyond the total: a flood under many names."""
        held, bounds = self._all, self.bounds
        return held.waiting >= bounds.waiting.total or held.waiting_bytes >= bounds.waiting_bytes.total

    def parties(self) -> dict[Hashable, EndpointLoad]:
        """What each holds that holds anything."""
        loads = {name: party.load for name, party in self._parties.items()}
        return {name: load for name, load in loads.items() if any(load)}

    def offer(
        self,
        name: Hashable,
        item: T,
        *,
        now: float,
        size: int,
        kind: Hashable = None,
        seats: int = 1,
        is_ask: bool = False,
    ) -> bool:
        """Let a request wait for its turn. False when its party, or all together, hold too much already.

        `size` is the request's in bytes; `kind` tells requests apart whose replies differ in size; `seats` is how
        many it takes while it is answered.
        """
        party: _Party[T] = self._parties.get(name) or _Party(name)
        held, bounds = self._all, self.bounds
        size = max(size, _LEAST_SIZE)
        if not (
            bounds.waiting.allows(party.waiting, held.waiting)
            and bounds.waiting_bytes.allows(party.waiting_bytes, held.waiting_bytes)
            and (not is_ask or bounds.asks.allows(party.asks, held.asks))
        ):
            return False
        self._parties[name] = party
        if not party.queue:
            self._ring.append(party)
        party.queue.append(_Waiting(item, now + bounds.wait_s, size, kind, seats, is_ask))
        self._queued(party, size, 1)
        party.asks += is_ask
        held.asks += is_ask
        return True

    def next(self, now: float) -> Admitted[T] | None:
        """Seat the request whose turn it is; None when none may be begun now."""
        for _ in range(len(self._ring)):
            if self._all.seats >= self.bounds.seats.total:
                return None
            party = self._ring.popleft()
            admitted = self._seated(party, now)
            if party.queue:
                self._ring.append(party)
            if admitted is not None:
                return admitted
        return None

    def late(self) -> list[T]:
        """What was given up since this was asked last: whoever sent it waits no more."""
        late, self._late = self._late, []
        return late

    def clear(self) -> list[T]:
        """Take out everything that waits."""
        left: list[T] = []
        while self._ring:
            party = self._ring.popleft()
            while party.queue:
                waited = party.queue.popleft()
                self._queued(party, waited.size, -1)
                self._closed(party, waited)
                left.append(waited.item)
        return left

    def _seated(self, party: _Party[T], now: float) -> Admitted[T] | None:
        while party.queue and (party.queue[0].until < now or self._may_begin(party)):
            waited = party.queue.popleft()
            self._queued(party, waited.size, -1)
            if waited.until >= now:
                return Admitted(self, party, waited)
            self._late.append(waited.item)
            self._closed(party, waited)
        return None

    def _may_begin(self, party: _Party[T]) -> bool:
        if party.seats == 0:
            return True
        bounds, held, first = self.bounds, self._all, party.queue[0]
        guess = party.guesses.get(first.kind, FIRST_GUESS)
        return bounds.seats.allows(party.seats, held.seats) and bounds.reply_bytes.allows(
            party.reply_bytes + guess - 1, held.reply_bytes
        )

    def _queued(self, party: _Party[T], size: int, by: int) -> None:
        every = self._all
        party.waiting += by
        party.waiting_bytes += by * size
        every.waiting += by
        every.waiting_bytes += by * size

    def _closed(self, party: _Party[T], waited: _Waiting[T]) -> None:
        party.asks -= waited.is_ask
        self._all.asks -= waited.is_ask
        if len(self._parties) > _MOST_IDLE and not (party.queue or party.seats or party.parked or party.asks):
            self._parties.pop(party.name, None)
        self._freed()

    def _freed(self) -> None:
        if self._ring:
            self.on_free()
