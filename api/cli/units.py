"""Sizes, durations and times for people."""

from datetime import UTC, datetime

_STEPS = ("KiB", "MiB", "GiB", "TiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_FEW = 10


def size(count: float) -> str:
    """`6.1 GiB`."""
    if count < 1024:  # noqa: PLR2004  # where KiB begin
        return f"{count:.0f} B"
    value = float(count)
    for step in _STEPS:
        value /= 1024
        if value < 1024:  # noqa: PLR2004  # where the next step begins
            return f"{value:.1f} {step}"
    return f"{value:.1f} {_STEPS[-1]}"


def seconds(count: float) -> str:
    """`1.2s`, `4m 12s`, `2h 5m`, `3d 4h`."""
    if count < _FEW:
        return f"{count:.1f}s"
    whole = round(count)
    if whole < _MINUTE:
        return f"{whole}s"
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE}s".removesuffix(" 0s")
    if whole < _DAY:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE}m".removesuffix(" 0m")
    return f"{whole // _DAY}d {whole % _DAY // _HOUR}h".removesuffix(" 0h")


def rate(text: str) -> int:
    """Bytes a second of `50MiB/s`, `50MiB` or `52428800`; ValueError for anything else."""
    number = text.removesuffix("/s")
    for power, unit in enumerate(_STEPS, start=1):
        if number.endswith(unit):
            return int(float(number.removesuffix(unit)) * 1024**power)
    return int(number)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def age(text: str, now: datetime | None = None) -> str:
    """How long ago, in its largest unit: `3d`."""
    passed = round(((now or datetime.now(UTC)) - moment(text)).total_seconds())
    for unit, length in (("d", _DAY), ("h", _HOUR), ("m", _MINUTE)):
        if passed >= length:
            return f"{passed // length}{unit}"
    return f"{max(passed, 0)}s"


def local(text: str) -> str:
    """The time here, with its zone."""
    return f"{moment(text).astimezone():%d %b %H:%M:%S %Z}"


def day(text: str) -> str:
    return f"{moment(text).astimezone():%d %b}"


def span(text: str) -> int:
    """Seconds of `90`, `90s`, `3m`, `2h`, `7d`; ValueError for anything else."""
    factors = {"s": 1, "m": _MINUTE, "h": _HOUR, "d": _DAY}
    number, factor = (text[:-1], factors[text[-1]]) if text[-1:] in factors else (text, 1)
    return int(number) * factor
