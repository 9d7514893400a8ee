"""What `fedctl dev` starts in tests: says its arguments, then ends as it is told."""

import signal
import sys


def stopped(number: int, _: object) -> None:
    sys.stdout.write(f"stopped by {number}\n")
    sys.stdout.flush()
    sys.exit(0)


signal.signal(signal.SIGTERM, stopped)
sys.stdout.write(" ".join(["started", *sys.argv[1:]]) + "\n")
sys.stdout.flush()
if "--exit" in sys.argv:
    sys.exit(7)
signal.pause()
