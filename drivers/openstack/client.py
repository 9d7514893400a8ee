"""The one file that knows openstacksdk: log in, call with a timeout, name what went wrong."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import requests
import urllib3
from keystoneauth1 import exceptions as keystone_errors
from keystoneauth1.adapter import Adapter
from keystoneauth1.identity import v3
from keystoneauth1.session import Session
from openstack import exceptions as sdk_errors
from openstack.connection import Connection

from controlplane.domain.errors import (
    Denied,
    FedctlError,
    Invalid,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.domain.site import SiteAccess
from drivers.openstack.meaning import meaning
from drivers.wire import UNREADABLE, guard

Payload = dict[str, Any]

# The oldest versions that can do what the driver asks, and the newest that it was tried with.
COMPUTE: Final = ((2, 69), (2, 79))
VOLUME: Final = ((3, 27), (3, 59))
PAGE: Final = 500

_DETAIL: Final = 500
_REDIRECTS: Final = 3


class Client:
    """One connection to one site; it logs in when it is first needed, and again when it must."""

    def __init__(self, access: SiteAccess) -> None:
        self.site = access.site
        self._timeout = access.timeout
        self._secrets = tuple(access.secrets.values())
        self._access = access
        self._closed = False
        # The SDK logs request bodies and headers on debug; nothing of ours reads them.
        for name in ("openstack", "keystoneauth", "urllib3"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def __repr__(self) -> str:
        return f"Client({self._access.endpoint!r})"

    @cached_property
    def _connection(self) -> Connection:
        """The SDK on a session of ours, so that it reads no environment and no cloud files."""
        transport = requests.Session()
        verify: bool | str = self._access.options.get("ca_file") or True
        pin = self._access.pins.get("tls", "")
        guard(transport, fingerprint=pin)
        if pin:
            verify = False  # the fingerprint decides, whoever signed the certificate
        session = Session(
            auth=self._login(),
            session=transport,
            timeout=self._timeout,
            verify=verify,
            app_name="fedctl",
            redirect=_REDIRECTS,
        )
        return Connection(
            session=session,
            region_name=self._access.options.get("region"),
            interface=self._access.options.get("interface", "public"),
        )

    def _login(self) -> v3.Auth:
        secrets, options = self._access.secrets, self._access.options
        url = self._access.endpoint.rstrip("/")
        if not url.endswith("/v3"):
            url += "/v3"
        if "application_credential_id" in secrets:
            return v3.ApplicationCredential(
                url,
                application_credential_id=secrets["application_credential_id"],
                application_credential_secret=secrets.get("application_credential_secret", ""),
            )
        if "username" not in secrets:
            raise Invalid(
                f"site {self.site}: the credentials name neither application_credential_id nor"
                " username: give an application credential (better) or a user and password"
            )
        domain = options.get("domain", "default")
        return v3.Password(
            url,
            username=secrets["username"],
            password=secrets.get("password", ""),
            user_domain_id=domain,
            project_name=options.get("project", ""),
            project_domain_id=domain,
        )

    def close(self) -> None:
        self._log_out()
        self._closed = True

    def _log_out(self) -> None:
        if "_connection" in self.__dict__:
            self._connection.close()
            self._connection.session.session.close()
            del self._connection
        self.__dict__.pop("_versions", None)

    # Calls.

    def call(
        self,
        service: str,
        method: str,
        path: str,
        body: object = None,
        *,
        what: str,
        params: Payload | None = None,
        headers: dict[str, str] | None = None,
        accept: tuple[int, ...] = (),
    ) -> requests.Response:
        """One request; `what` names its subject in messages. Statuses over 399 raise."""
        if self._closed:
            raise Unavailable(f"the connection to site {self.site} is closed: open another")
        with self.translated(what):
            asked: Payload = {"params": params, "headers": dict(headers or {})}
            if body is not None:
                asked["json"] = body
            if service in {"compute", "block_storage"}:
                asked["microversion"] = self.version(service)
            response = self._ask(service, path, method, **asked)
            if response.status_code not in accept:
                sdk_errors.raise_from_response(response)
            return response

    def _ask(self, service: str, path: str, method: str, **asked: object) -> requests.Response:
        """One request through the SDK's proxy of a service, as its base class makes it.

        The proxy's own way adds a cache and statistics that we want not, and warns of itself.
        """
        proxy = getattr(self._connection, service)
        response: requests.Response = Adapter.request(
            proxy, path, method, connect_retries=0, status_code_retries=0, raise_exc=False, **asked
        )
        return response

    def get(
        self, service: str, path: str, key: str, *, what: str, params: Payload | None = None
    ) -> Payload:
        """What a GET answers under `key` (all of it when that is empty)."""
        return self._body(self.call(service, "GET", path, what=what, params=params), key, what)

    def find(self, service: str, path: str, key: str, *, what: str) -> Payload | None:
        """As `get`, or None when the service says that there is no such thing."""
        try:
            return self.get(service, path, key, what=what)
        except NotFound:
            return None

    def send(
        self, service: str, method: str, path: str, body: object, key: str, *, what: str
    ) -> Payload:
        """What a changing call answers under `key`."""
        return self._body(self.call(service, method, path, body, what=what), key, what)

    def _body(self, response: requests.Response, key: str, what: str) -> Payload:
        with self.translated(what):
            value = response.json()
            found = value[key] if key else value
            if not isinstance(found, dict):
                raise TypeError(f"{key or 'the answer'} is no object")
            return found

    def listing(
        self, service: str, path: str, key: str, *, what: str, params: Payload | None = None
    ) -> Iterator[Payload]:
        """Every element, page by page."""
        query = {"limit": PAGE, **(params or {})}
        while True:
            page = self.get(service, path, "", what=what, params=query)
            with self.translated(what):
                items: list[Payload] = [dict(item) for item in page[key]]
                link = page.get("next") or next(
                    (n["href"] for n in page.get(f"{key}_links", []) if n["rel"] == "next"), None
                )
            yield from items
            if not link or not items:
                return
            marker = dict(parse_qsl(urlsplit(link).query)).get("marker")
            if not marker:
                return
            query = {**query, "marker": marker}

    # Image bytes.

    def upload(self, path: str, data: Iterable[bytes], *, what: str) -> None:
        """Send an image's bytes; never twice, since `data` may be read only once."""
        with self.translated(what):
            self._connection.session.get_token()  # a new one if the old is about to end
            try:
                response = self._ask(
                    "image",
                    path,
                    "PUT",
                    data=iter(data),
                    headers={"Content-Type": "application/octet-stream"},
                    allow_reauth=False,
                )
            except keystone_errors.Unauthorized:
                response = None
            if response is None or response.status_code == requests.codes.unauthorized:
                self._connection.session.invalidate()
                raise Unavailable(
                    f"{what} at site {self.site}: the login ended during the upload; send it again"
                )
            sdk_errors.raise_from_response(response)

    def download(self, path: str, offset: int, length: int, *, what: str) -> bytes:
        """`length` bytes of an image from `offset` on; goes on where a connection broke."""
        got = bytearray()
        while len(got) < length:
            part = self._some(path, offset + len(got), length - len(got), what=what)
            got += part
        return bytes(got)

    def _some(self, path: str, offset: int, length: int, *, what: str) -> bytes:
        """At least one byte and at most `length`, as far as the connection held."""
        part = bytearray()
        with self.translated(what):
            part_of = {"Range": f"bytes={offset}-{offset + length - 1}"}
            response = self._ask("image", path, "GET", headers=part_of, stream=True)
            with response:
                sdk_errors.raise_from_response(response)
                if response.status_code != requests.codes.partial_content:
                    raise Unsupported(
                        f"site {self.site} does not send parts of images (Range): {what} cannot"
                        " be read at random; ask its operator for another image store"
                    )
                try:
                    # Whatever has come at once: a larger piece would be lost with the connection.
                    while block := response.raw.read1(1 << 20, decode_content=True):
                        part += block
                except (urllib3.exceptions.HTTPError, OSError):
                    if not part:
                        raise
                if not part:
                    raise ConnectionError("an answer without bytes")
        return bytes(part[:length])

    # Versions.

    def version(self, service: str) -> str:
        """The microversion to speak with a service: the newest that both sides know."""
        return self._versions[service]

    @cached_property
    def _versions(self) -> dict[str, str]:
        chosen = {}
        for service, (least, most) in (("compute", COMPUTE), ("block_storage", VOLUME)):
            data = getattr(self._connection, service).get_endpoint_data()
            newest = tuple(data.max_microversion or ()) if data else ()
            if not newest:
                raise Unavailable(
                    f"site {self.site} does not tell the versions of {service}: ask again later"
                )
            if newest < least:
                raise Unsupported(
                    f"site {self.site} speaks {service} up to {_dotted(newest)}; at least"
                    f" {_dotted(least)} is needed: choose a site of a later release"
                )
            chosen[service] = _dotted(min(newest, most))
        return chosen

    def newest(self, service: str) -> str:
        """The newest version that the site itself speaks, for people."""
        with self.translated(service):
            data = getattr(self._connection, service).get_endpoint_data()
            return _dotted(data.max_microversion or data.api_version or ())

    # Errors.

    @contextmanager
    def translated(self, what: str) -> Iterator[None]:
        """Turn every failure of the SDK, its login and its transport into one of ours.

        After those that are no answer of a service the next call logs in anew: the SDK keeps the
        catalogue and what it found out about services, and that may be what was wrong.
        """
        at = f"{what} at site {self.site}"
        try:
            yield
        except FedctlError:
            self._log_out()
            raise
        except sdk_errors.HttpException as e:
            status, words = int(e.status_code or 0), str(e.details or e.message or e)
            retry = e.response.headers.get("Retry-After", "") if e.response is not None else ""
            raise self._named(status, at, self._hidden(words), retry) from e
        except keystone_errors.HttpError as e:
            words = self._hidden(str(e.message or ""))
            raise self._named(int(e.http_status or 0), at, words, "") from e
        except (keystone_errors.EndpointNotFound, keystone_errors.CatalogException) as e:
            self._log_out()
            raise Unsupported(
                f"{at}: the site's catalogue has no such service for this login: check region and"
                " project"
            ) from e
        except keystone_errors.AuthPluginException as e:
            raise Invalid(f"{at}: the credentials cannot be used: check what was given") from e
        except keystone_errors.SSLError as e:
            if "CERTIFICATE_VERIFY_FAILED" not in str(e) and "ingerprint" not in str(e):
                raise Unavailable(f"{at}: the connection broke off: ask again") from e
            raise Denied(
                f"{at}: the certificate is not trusted: check the URL, name its ca_file, or pin it"
            ) from e
        except (
            keystone_errors.ClientException,
            sdk_errors.SDKException,
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            OSError,
        ) as e:
            self._log_out()
            raise Unavailable(
                f"{at}: no answer within {self._timeout:g} s or a broken one; whether it had an"
                " effect is unknown: ask again",
                detail=self._hidden(str(e)),
            ) from e
        except UNREADABLE as e:
            self._log_out()
            raise Unavailable(
                f"{at}: the answer cannot be understood: is the URL that of an OpenStack?",
                detail=f"{type(e).__name__}: {self._hidden(str(e))}",
            ) from e

    def _named(self, status: int, at: str, words: str, retry: str) -> FedctlError:
        """Our error for a refusal, with the provider's own words as its detail."""
        kind, advice = meaning(status, words, retry)
        if kind is Unavailable and retry:
            advice += f" in {retry} s"
        said = f" ({words[:120]})" if words and status < requests.codes.server_error else ""
        return kind(f"{at}: refused with {status}{said}: {advice}", detail=words)

    def _hidden(self, text: str) -> str:
        for secret in self._secrets:
            if secret:
                text = text.replace(secret, "(secret)")
        return text[:_DETAIL]


def _dotted(version: Iterable[int]) -> str:
    return ".".join(str(part) for part in version)
