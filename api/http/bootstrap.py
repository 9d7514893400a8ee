"""Prepares a database and its first administrator: `python -m api.http.bootstrap`.

Reads FEDCTL_* settings, the administrator's password from standard input, and prints a token.
"""

import argparse
import sys

from controlplane.services.assembly import assemble, services
from controlplane.settings import Settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tenant", required=True)
    parser.add_argument("--user", required=True)
    given = parser.parse_args()
    settings = Settings()
    password = sys.stdin.readline().rstrip("\n")
    parts = assemble(settings, process="bootstrap")
    try:
        parts.store.migrate()
        token = services(settings, parts).identity.bootstrap(given.tenant, given.user, password)
    finally:
        parts.close()
    sys.stdout.write(f"{token}\n")


if __name__ == "__main__":
    main()
