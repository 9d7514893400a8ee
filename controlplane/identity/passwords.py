"""Passwords of local users: argon2id, checked in the same time for users who do not exist."""

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

from controlplane.domain.errors import Integrity, Invalid

SHORTEST = 12
LONGEST = 1024


class Passwords:
    """Hashes and checks; the default cost is RFC 9106's second recommended option."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._nobody = self._hasher.hash("the password of nobody")

    def hash(self, password: str) -> str:
        """What to keep of `password`; `Invalid` when it is too short or absurdly long."""
        if not SHORTEST <= len(password) <= LONGEST:
            raise Invalid(
                f"a password has {SHORTEST} to {LONGEST} characters: choose another length"
            )
        return self._hasher.hash(password)

    def matches(self, stored: str, password: str) -> bool:
        """Whether `password` belongs to `stored`. An empty `stored` costs the same and is False."""
        if len(password) > LONGEST:
            return False
        try:
            self._hasher.verify(stored or self._nobody, password)
        except VerifyMismatchError:
            return False
        except (InvalidHashError, VerificationError):
            raise Integrity(
                "a stored password hash cannot be read: set the user's password anew"
            ) from None
        return bool(stored)

    def outdated(self, stored: str) -> bool:
        """Whether to hash anew at the next login, because the cost has changed since."""
        return self._hasher.check_needs_rehash(stored)
