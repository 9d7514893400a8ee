"""Bytes that take their turn, so that no more than so many pass in a second."""

from collections.abc import Hashable


class Bucket:
    """`due` is when all bytes that took their turn may have passed."""

    at_once = 0.25

    def __init__(self) -> None:
        self.due = 0.0

    def take(self, length: int, rate: float, now: float) -> float:
        """Seconds to wait after so many more bytes; a pause saves up a quarter of a second."""
        self.due = max(self.due, now - self.at_once) + length / rate
        return max(self.due - now, 0.0)


class Shared:
    """A limit in equal parts for all that have bytes waiting; what one does not use is another's.

    Fair queueing of a fluid: of what waits, each one's first bytes pass side by side.
    """

    def __init__(self) -> None:
        self.due = 0.0
        self._waiting: dict[Hashable, float] = {}
        self._at = 0.0

    def take(self, who: Hashable, length: int, rate: float, now: float) -> float:
        """Seconds that `who` is to wait after so many more bytes of theirs."""
        _pass(self._waiting, (now - self._at) * rate)
        self._at = now
        self._waiting[who] = self._waiting.get(who, 0.0) + length
        self.due = now + sum(self._waiting.values()) / rate
        mine = self._waiting[who]
        before = sum(min(each, mine) for each in self._waiting.values())
        return max(before / rate - Bucket.at_once, 0.0)


def _pass(waiting: dict[Hashable, float], length: float) -> None:
    """So many bytes have gone by, of all that wait as many."""
    while waiting and length > 0:
        step = min(*waiting.values(), length / len(waiting))
        length -= step * len(waiting)
        for who in list(waiting):
            waiting[who] -= step
            if waiting[who] < 1.0:
                del waiting[who]
