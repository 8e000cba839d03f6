"""How often a stranger may reply within a second."""

from sidecar.adapters.nats.client.reply_rate import ReplyRate


def test_so_many_in_a_second_and_as_many_in_the_next() -> None:
    rate = ReplyRate(3)
    assert [rate.allows(10.0 + 0.1 * i) for i in range(5)] == [True, True, True, False, False]
    assert [rate.allows(11.5) for _ in range(4)] == [True, True, True, False]
