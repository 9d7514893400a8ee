"""Why a command stops: what to say, and the exit code that says it to programs."""

from api.schemas.errors import BY_CODE, EXIT, ProblemOut
from controlplane.domain.errors import FedctlError


class Stopped(Exception):  # the command stopped; why is in the text
    """`text` is for people, `notes` stand below it; `reason` is the server's code word."""

    def __init__(
        self, text: str, *, exit_code: int, notes: tuple[str, ...] = (), reason: str = ""
    ) -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.exit_code = exit_code
        self.notes = notes


def named(error: FedctlError) -> Stopped:
    """A failure that this process met itself."""
    return Stopped(str(error), exit_code=EXIT[type(error)])


def refused(problem: ProblemOut) -> Stopped:
    """What the server answered, in its own words."""
    code = str(problem.meta.get("code", ""))
    kind = BY_CODE.get(code)
    exit_code = EXIT[kind] if kind is not None else 1
    places = tuple(f"at {s.pointer or s.parameter}" for s in problem.sources)
    request = problem.meta.get("requestId", "")
    last = f"{code or problem.status}   request {request}   exit {exit_code}"
    reason = str(problem.meta.get("reason", ""))
    return Stopped(problem.detail, exit_code=exit_code, notes=(*places, last), reason=reason)
