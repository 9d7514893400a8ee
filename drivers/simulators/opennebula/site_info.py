"""What a simulated oned tells of itself: version, users and their tokens, datastores."""

import secrets
import time

from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula import views
from drivers.simulators.opennebula.oned import Oned, Refusal, User

VERSION = "7.4.0"


def version(_site: Oned, _user: User) -> str:
    return VERSION


def user(site: Oned, caller: User, number: int, _decrypt: bool = False) -> str:  # noqa: FBT001, FBT002  # the wire's shape
    number = caller.id if number == -1 else number
    if number not in site.users:
        raise Refusal(one.NO_EXISTS, f"[one.user.info] Error getting user [{number}].", number)
    return views.user(site, site.users[number])


def login(site: Oned, caller: User, name: str, token: str, seconds: int, _egid: int = -1) -> str:
    """A token for a user, made up here when none is given; of no seconds it is taken back."""
    found = next((each for each in site.users.values() if each.name == name), None)
    if found is None or caller.id not in {found.id, 0}:
        message = f"[one.user.login] User [{caller.id}] : Not authorized to perform MANAGE USER."
        raise Refusal(one.AUTHORIZATION, message)
    if not seconds:
        found.tokens.pop(token, None)
        return ""
    made = token or secrets.token_hex(20)
    found.tokens[made] = float("inf") if seconds < 0 else time.time() + seconds
    return made


def datastores(site: Oned, _user: User) -> str:
    return views.datastores(site)
