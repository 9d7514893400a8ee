"""Bytes that take their turn, so that no more than so many pass in a second."""


class Bucket:
    """`due` is when all bytes that took their turn may have passed."""

    at_once = 0.25

    def __init__(self) -> None:
        self.due = 0.0

    def take(self, length: int, rate: float, now: float) -> float:
        """Seconds to wait after so many more bytes; a pause saves up a quarter of a second."""
        self.due = max(self.due, now - self.at_once) + length / rate
        return max(self.due - now, 0.0)
