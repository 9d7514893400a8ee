"""What differs between two runs of the contract suite, in words; pure."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from tests.live.telling import PASSED, Told

Run = Mapping[str, Told]
_SLOWEST = 8


def report(simulated: Run, real: Run) -> str:
    """The differences as text: outcomes, answers that only one side gave, and times."""
    lines = [
        "",
        f"simulated: {_counted(simulated)}",
        f"real:      {_counted(real)}",
        "",
        "Tests that went another way:",
        *(outcomes(simulated, real) or ["  none"]),
        "",
        "Answers that only one of them ever gave, in tests that passed at both:",
        *(answers(simulated, real) or ["  none"]),
        "",
        "The longest at the real site:",
        *_slowest(simulated, real),
    ]
    return "\n".join(lines) + "\n"


def outcomes(simulated: Run, real: Run) -> list[str]:
    """A line for each test whose outcome differs, or that one side does not have."""
    lines = []
    for test in sorted(set(simulated) | set(real)):
        here, there = simulated.get(test), real.get(test)
        if here is None or there is None or here.outcome != there.outcome:
            lines.append(f"  {test}: simulated {_told(here)}; real {_told(there)}")
    return lines


def answers(simulated: Run, real: Run) -> list[str]:
    """A line for each answer to a call that never came from the other side."""
    both = [t for t in simulated if t in real and simulated[t].outcome == real[t].outcome == PASSED]
    here, there = _heard(simulated, both), _heard(real, both)
    lines = []
    for (call, answer), tests in sorted({**here, **there}.items()):
        if ((call, answer) in here) is not ((call, answer) in there):
            side = "simulated" if (call, answer) in here else "real"
            lines.append(f"  {call}: {answer}: {side} only, in {len(tests)} tests ({tests[0]})")
    return lines


def _heard(run: Run, tests: list[str]) -> dict[tuple[str, str], list[str]]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for test in tests:
        for call, given in run[test].calls.items():
            for answer in given:
                found[call, answer].append(test)
    return dict(found)


def _counted(run: Run) -> str:
    counts = Counter(told.outcome for told in run.values())
    seconds = sum(told.seconds for told in run.values())
    return (
        ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())) + f", {seconds:.0f} s"
    )


def _told(told: Told | None) -> str:
    if told is None:
        return "did not run it"
    return f"{told.outcome} ({told.why})" if told.why else told.outcome


def _slowest(simulated: Run, real: Run) -> Iterator[str]:
    longest = sorted(real.items(), key=lambda each: -each[1].seconds)[:_SLOWEST]
    for test, told in longest:
        here = simulated.get(test)
        beside = f"{here.seconds:.1f} s simulated" if here else "not simulated"
        yield f"  {told.seconds:6.1f} s {test} ({beside})"
