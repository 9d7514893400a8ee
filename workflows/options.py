"""How long each kind of step may take, and how often it is tried."""

from datetime import timedelta
from typing import TypedDict

from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType

QUEUE = "control"
COPIES, CUTOVER = ".copies", ".cutover"
"""Behind a story's own queue: where its steps go that move bytes, before and in its cutover."""


# A worker that was not heard of for so long is dead, and its step is another's to try.
ALIVE = timedelta(seconds=10)


class Options(TypedDict):
    start_to_close_timeout: timedelta
    schedule_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy


class LongOptions(Options):
    cancellation_type: ActivityCancellationType


# Our own database: short, tried until it is back.
RECORD: Options = {
    "start_to_close_timeout": timedelta(seconds=30),
    "schedule_to_close_timeout": timedelta(hours=1),
    "heartbeat_timeout": ALIVE,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(seconds=10)
    ),
}

# The switch and what follows it: an unknown answer is read back, without limit.
FORWARD: Options = {
    "start_to_close_timeout": timedelta(minutes=2),
    "schedule_to_close_timeout": timedelta(days=30),
    "heartbeat_timeout": ALIVE,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=30)
    ),
}

# One call to a provider; longer than the call's own timeout, so that none outlives its step.
CALL: Options = {
    "start_to_close_timeout": timedelta(minutes=2),
    "schedule_to_close_timeout": timedelta(minutes=10),
    "heartbeat_timeout": ALIVE,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=200),
        maximum_interval=timedelta(seconds=10),
        maximum_attempts=8,
    ),
}

# Several calls that wait for each other, in one step. Leases are held for as long.
TOGETHER: Options = {
    "start_to_close_timeout": timedelta(minutes=10),
    "schedule_to_close_timeout": timedelta(minutes=15),
    "heartbeat_timeout": ALIVE,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=200),
        maximum_interval=timedelta(seconds=5),
        maximum_attempts=4,
    ),
}

# A look that is repeated until the provider is done.
WAIT: Options = {
    "start_to_close_timeout": timedelta(minutes=2),
    "schedule_to_close_timeout": timedelta(hours=2),
    "heartbeat_timeout": ALIVE,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=100),
        backoff_coefficient=1.25,
        maximum_interval=timedelta(seconds=5),
    ),
}

# The same, of what keeps others from an instance: a site that takes longer is given up.
HELD: Options = {**WAIT, "schedule_to_close_timeout": timedelta(minutes=10)}

# The first contact with a site: a person waits for the answer.
ASK: Options = {
    "start_to_close_timeout": timedelta(minutes=2),
    "schedule_to_close_timeout": timedelta(minutes=3),
    "heartbeat_timeout": ALIVE,
    "retry_policy": RetryPolicy(initial_interval=timedelta(milliseconds=300), maximum_attempts=3),
}

# Undoing: patient, but in the end a person must look.
UNDO: Options = {
    "start_to_close_timeout": timedelta(minutes=2),
    "schedule_to_close_timeout": timedelta(hours=2),
    "heartbeat_timeout": ALIVE,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=30)
    ),
}

# Of a move whose target is proven: how long everything is taken back before a person may decide
# otherwise, and then how long each return of its source is tried, and how often at the least.
BEFORE_OFFER, EACH_RETURN = timedelta(minutes=5), timedelta(minutes=1)
RETURN_AT_LEAST_EVERY = timedelta(minutes=10)

# Of a source that runs nobody waits for a copy: how long a site that is away is waited for once the
# tries of a copy are used up, and how long between them. A round that took longer got somewhere.
AWAY_FOR, AWAY_PAUSE = timedelta(hours=2), timedelta(seconds=30)
GOT_SOMEWHERE = timedelta(minutes=10)

# Before an image that did not arrive is served anew: a gateway that died is back by then.
IMAGE_AGAIN = (timedelta(seconds=5), timedelta(seconds=15))

# Tidying up after success: what does not go soon is written down and goes later.
CLEAN: Options = {
    "start_to_close_timeout": timedelta(minutes=2),
    "schedule_to_close_timeout": timedelta(minutes=5),
    "heartbeat_timeout": ALIVE,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=100), maximum_interval=timedelta(seconds=5)
    ),
}

# Copying: heartbeats, stops when told to, goes on where its predecessor sealed.
COPY: LongOptions = {
    "start_to_close_timeout": timedelta(days=7),
    "schedule_to_close_timeout": timedelta(days=7),
    "heartbeat_timeout": timedelta(seconds=5),
    "cancellation_type": ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    "retry_policy": RetryPolicy(
        initial_interval=timedelta(milliseconds=200),
        maximum_interval=timedelta(seconds=10),
        maximum_attempts=20,
    ),
}
