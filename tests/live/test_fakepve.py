"""The Proxmox VE driver against fakepve, another's fake of the API: `LIVE_FAKEPVE=its command`.

fakepve checks every parameter against Proxmox VE's own schema and answers in its words. It is a
process of an environment of its own (`pip install fakepve[crypto]` into it), and no part of ours.
"""

import os
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from hashlib import sha256

import pytest
from proxmoxer.backends.https import ProxmoxHTTPAuth
from urllib3.exceptions import InsecureRequestWarning

from controlplane.domain.site import ProviderKind, SiteAccess, SiteName
from drivers.contract import Driver
from drivers.proxmox.driver import ProxmoxDriver
from tests.contract.suite import Break, DriverContract
from tests.contract.suite_storage import ImagesContract
from tests.contract.suite_transfer import DiskExportContract, DiskImportContract
from tests.e2e.system import free_port, until

FAKEPVE = "LIVE_FAKEPVE"
USER, PASSWORD = "root@pam", "a-password-of-the-fake"
HOST = "127.0.0.1"
# What of the suite it does not model.
NO_IMAGES = "its upload takes no disk images (content import), which its own schema allows"
NO_LINKS = "it keeps a changed nic of a running VM for the next start; Proxmox VE plugs it at once"
NO_POINTS = "no snapshot of it is ever ready; why was not looked into yet"
EXEMPT = {
    "nics_are_isolated_and_connected": NO_LINKS,
    "snapshot_twice_makes_one": NO_POINTS,
    "the_same_tag_for_another_instance_conflicts": NO_POINTS,
    "a_snapshot_is_deleted_twice_and_gone": NO_POINTS,
    "epochs_guard_a_snapshot": NO_POINTS,
    "a_running_instance_is_snapshotted_too": NO_IMAGES,
    "what_stayed_paused_is_kept_so_and_what_went_on_is_told": NO_IMAGES,
    "a_paused_instance_counts_as_on_and_goes_on_when_resumed": NO_IMAGES,
    "a_paused_instance_can_be_cut": NO_IMAGES,
    "epochs_guard_a_pause": NO_IMAGES,
    "the_agent_answers_only_while_the_guest_runs": NO_IMAGES,
    "power_goes_on_and_off_and_asking_twice_is_fine": NO_IMAGES,
    "a_boot_is_proven_or_the_question_unsupported": NO_IMAGES,
}


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if FAKEPVE not in os.environ:
        pytest.skip(f"{FAKEPVE} names no command")
    folder = tmp_path_factory.mktemp("fakepve")
    guests, port = folder / "guests.json", free_port()
    guests.write_text('{"guests": []}')
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                os.environ[FAKEPVE], str(guests), "--host", HOST, "--port", str(port),
                "--user", USER, "--time-scale", "0.02",
            ],
            env={**os.environ, "PVE_PASS": PASSWORD},
            stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        until(lambda: b"listening" in (folder / "log").read_bytes(), "fakepve listens", 20)
        yield f"https://{HOST}:{port}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def access(endpoint: str) -> SiteAccess:
    port = int(endpoint.rpartition(":")[2])
    certificate = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((HOST, port)))
    access = SiteAccess(
        site=SiteName("fakepve"),
        provider=ProviderKind.PROXMOX,
        endpoint=endpoint,
        secrets={"token_id": f"{USER}!suite", "token_secret": "a-secret-of-a-token"},
        pins={"tls": sha256(certificate).hexdigest()},
        timeout=10.0,
    )
    driver = logged_in(access)
    driver._api.put("/storage/local", content="iso,vztmpl,backup,import,snippets")
    driver.close()
    return access


def logged_in(access: SiteAccess) -> ProxmoxDriver:
    """A driver whose session holds a ticket: fakepve's command makes no tokens."""
    driver = ProxmoxDriver(access)
    session = driver._api._session
    with warnings.catch_warnings(action="ignore", category=InsecureRequestWarning):
        session.auth = ProxmoxHTTPAuth(
            USER,
            PASSWORD,
            base_url=f"{access.endpoint}/api2/json",
            verify_ssl=False,
            timeout=access.timeout,
        )
    session.cookies = session.auth.get_cookies()
    return driver


class TestFakepve(DriverContract):
    provider = "proxmox"
    deadline = 10.0

    @pytest.fixture(autouse=True)
    def modelled(self, request: pytest.FixtureRequest) -> None:
        test = request.node.originalname
        if any(test in vars(facet) for facet in (DiskExportContract, DiskImportContract)):
            pytest.skip("fakepve: it has no ssh, through which disks leave and are written")
        if test in vars(ImagesContract):
            pytest.skip(f"fakepve: {NO_IMAGES}")
        if reason := EXEMPT.get(test.removeprefix("test_")):
            pytest.skip(f"fakepve: {reason}")

    @pytest.fixture
    def driver(self, access: SiteAccess) -> Iterator[Driver]:
        driver = logged_in(access)
        yield driver
        driver.close()

    @pytest.fixture
    def second(self, access: SiteAccess) -> Iterator[Driver]:
        driver = logged_in(access)
        yield driver
        driver.close()

    @pytest.fixture
    def broken(self) -> Break:
        pytest.skip("fakepve's command breaks nothing on demand")

    @pytest.fixture
    def secrets(self) -> tuple[str, ...]:
        return (PASSWORD,)
