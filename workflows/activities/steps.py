"""Each step is written down when it begins and when it ends, with where its time went."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from time import monotonic

from temporalio import activity
from temporalio.exceptions import CancelledError

from controlplane.domain.errors import FedctlError
from controlplane.domain.ids import ArtefactId, InstanceId, OperationId
from controlplane.domain.operation import StepState
from controlplane.domain.owner import OwnerTag
from controlplane.store.engine import Store
from workflows.activities.trail import audit
from workflows.failures import NotYet, translated


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """On whose behalf a step acts: an operation on an instance at the epoch of its lease."""

    operation: OperationId
    instance: InstanceId
    epoch: int

    def tag(self, artefact: ArtefactId) -> OwnerTag:
        return OwnerTag(
            artefact=artefact,
            instance=self.instance,
            operation=self.operation,
            epoch=self.epoch,
        )


@dataclass(slots=True)
class Meter:
    """Seconds of a step spent in provider calls (waiting for one included) and in copying.

    A call in the middle of copying counts as a call.
    """

    provider: float = 0.0
    copy: float = 0.0
    message: str = ""
    attempt: int = 1
    sole: bool = False
    _now: Callable[[], float] = field(default=monotonic)
    _copies: bool = False
    _until: float | None = None

    def hangs(self) -> bool:
        """Whether a call takes longer than it was given."""
        until = self._until
        return until is not None and self._now() >= until

    @contextmanager
    def calling(self, within: timedelta | None = None) -> Iterator[None]:
        began = self._now()
        self._until = None if within is None else began + within.total_seconds()
        try:
            yield
        finally:
            self._until = None
            took = self._now() - began
            self.provider += took
            self.copy -= took if self._copies else 0.0

    @contextmanager
    def copying(self) -> Iterator[None]:
        began, self._copies = self._now(), True
        try:
            yield
        finally:
            self.copy += self._now() - began
            self._copies = False


def waited_so_far() -> timedelta:
    """From when the running activity was first asked for to this attempt, by the server's clock."""
    info = activity.info()
    return info.current_attempt_scheduled_time - info.scheduled_time


class Steps:
    """Records steps of operations; `clock` answers aware UTC times."""

    def __init__(self, store: Store, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._clock = clock

    @contextmanager
    def step(
        self, operation: OperationId, name: str, *, copying: bool = False, sole: bool = False
    ) -> Iterator[Meter]:
        """Run one step's body; errors leave as what Temporal understands.

        Earlier attempts and the waits between them count as the provider's time (or as copying,
        where the step copies): they happen because it was not ready or did not answer. Of a `sole`
        step, whose name one activity alone bears, only the newest attempt runs, and only that one
        says how it ended.
        """
        with translated(name):
            info = activity.info()
            meter = Meter(attempt=info.attempt, sole=sole)
            if info.attempt > 1:
                waited = max(self._clock() - info.scheduled_time, waited_so_far()).total_seconds()
                meter.copy, meter.provider = (waited, 0.0) if copying else (0.0, waited)
            if sole:
                self.claim(operation, name, meter)
            elif info.attempt == 1:
                self._begin(operation, name)
            try:
                yield meter
            except NotYet:
                raise
            except CancelledError:
                told = activity.cancellation_details()
                if told is not None and told.cancel_requested:  # not a worker that stops
                    self._end(operation, name, StepState.UNDONE, meter, "told to stop")
                raise
            except FedctlError as error:
                # What will be tried again is counted then, as time waited for the provider.
                spent = replace(meter, provider=0.0, copy=0.0) if error.retryable else meter
                self._end(operation, name, StepState.FAILED, spent, str(error))
                raise
            self._end(operation, name, StepState.OK, meter, meter.message)

    def claim(self, operation: OperationId, name: str, meter: Meter) -> None:
        """Superseded unless the running attempt is the newest of its sole step, and not undone.

        A writer is opened between two claims, and writes after the second: an attempt that was
        given up and goes on running is refused whenever it wakes.
        """
        with self._store.begin() as tx:
            if tx.operations.find_step(operation, name) is None:
                tx.operations.begin_step(operation, name, self._clock())
            tx.operations.claim_step(operation, name, meter.attempt)

    def asking(self, operation: OperationId, name: str) -> None:
        """Said before a site is asked for what takes its time there, and goes on without us."""
        with self._store.begin() as tx:
            if tx.operations.find_step(operation, name) is None:
                tx.operations.begin_step(operation, name, self._clock())
            tx.operations.ask_step(operation, name)

    def asked(self, operation: OperationId, *names: str) -> bool:
        """Whether a site may have been asked for the effect of one of these steps."""
        with self._store.read() as tx:
            return any(tx.operations.was_asked(operation, name) for name in names)

    def runs(self, operation: OperationId, name: str) -> bool:
        """Whether an attempt of the step is under way."""
        with self._store.read() as tx:
            step = tx.operations.find_step(operation, name)
        return step is not None and step.state is StepState.RUNNING

    def revoke(self, operation: OperationId, *names: str) -> None:
        """No attempt of these sole steps may act from now on."""
        with self._store.begin() as tx:
            for name in names:
                tx.operations.undo_step(operation, name, self._clock())

    def _begin(self, operation: OperationId, name: str) -> None:
        with self._store.begin() as tx:
            tx.operations.begin_step(operation, name, self._clock())

    def _end(
        self, operation: OperationId, name: str, state: StepState, meter: Meter, message: str
    ) -> None:
        with self._store.begin() as tx:
            now = self._clock()
            step = tx.operations.find_step(operation, name)
            if step is None:  # the first attempt died before it could say that it began
                step = tx.operations.begin_step(operation, name, now)
            if meter.sole and (step.attempts, step.state) != (meter.attempt, StepState.RUNNING):
                return
            tx.operations.end_step(
                operation,
                name,
                state,
                now,
                provider_seconds=meter.provider,
                copy_seconds=meter.copy,
                message=message,
            )
            if meter.provider or meter.copy:
                audit(tx, tx.operations.get(operation), state.value, now, step=name)
