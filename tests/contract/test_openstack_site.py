"""What only OpenStack does to a driver: tokens that end, cells that are silent, bytes that lie."""

import hashlib
import json
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import IPv4Address
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from controlplane.domain.answer import Absent, Seen, Unknown
from controlplane.domain.artefact import ArtefactKind
from controlplane.domain.disk import (
    GIB,
    MIB,
    DiskFormat,
    DiskSource,
    ExportStage,
    ExtentKind,
    ImageState,
    VolumeSpec,
    VolumeState,
)
from controlplane.domain.errors import (
    Busy,
    Denied,
    Exhausted,
    FedctlError,
    Integrity,
    Invalid,
    Unavailable,
    Unsupported,
)
from controlplane.domain.instance import (
    DiskPlace,
    Firmware,
    InstanceSpec,
    InstanceState,
    Power,
)
from controlplane.domain.network import NicSpec
from controlplane.domain.site import Capability, ProviderKind, SiteAccess, SiteName
from drivers import wire
from drivers.openstack.driver import OpenStackDriver
from drivers.openstack.reader import BLOCK
from drivers.simulators.faults import STEADY, Direction, LostAnswer, Status
from drivers.simulators.openstack import Knobs, OpenStackSim
from drivers.simulators.witness import Witness
from tests.contract.images import Gateway, pattern
from tests.contract.test_openstack import bootable
from tests.contract.world import World, chunks


@pytest.fixture
def witness(tmp_path) -> Iterator[Witness]:
    witness = Witness(tmp_path / "witness.sqlite")
    yield witness
    witness.close()


@pytest.fixture
def site(tmp_path, witness: Witness) -> Iterator[OpenStackSim]:
    knobs = Knobs(allow_loopback_pull=True)
    cloud = OpenStackSim(
        tmp_path / "cloud", name="suite", profile=STEADY, witness=witness, knobs=knobs
    )
    with cloud:
        yield cloud


def access(site: OpenStackSim, **secrets: str) -> SiteAccess:
    known = site.credentials
    return SiteAccess(
        site=SiteName("suite"),
        provider=ProviderKind.OPENSTACK,
        endpoint=site.url,
        secrets=secrets
        or {
            "application_credential_id": known.application_credential_id,
            "application_credential_secret": known.application_credential_secret,
        },
        options={"project": known.project_name},
        timeout=2.0,
    )


@contextmanager
def opened(wanted: SiteAccess) -> Iterator[OpenStackDriver]:
    driver = OpenStackDriver(wanted)
    try:
        yield driver
    finally:
        driver.close()


@pytest.fixture
def driver(site: OpenStackSim) -> Iterator[OpenStackDriver]:
    with opened(access(site)) as driver:
        yield driver


@pytest.fixture
def world(driver: OpenStackDriver, gateway: Gateway) -> World:
    """Nothing is cleaned: the whole cloud goes with the test."""
    network = driver.catalogue().networks[0].ref
    return World(driver, gateway, guest=bootable(), network=network, deadline=20.0)


# Login.


def test_a_password_works_and_a_warning_tells_of_the_better_way(site: OpenStackSim):
    known = site.credentials
    wanted = access(site, username=known.username, password=known.password)
    with opened(wanted) as driver:
        health = driver.check()
    assert "compute 2.104" in health.version
    assert any("application credential" in warning for warning in health.warnings)


def test_a_wrong_password_is_denied_and_not_told(site: OpenStackSim):
    wanted = access(site, username="member", password="hunter2")
    with opened(wanted) as driver, pytest.raises(Denied) as caught:
        driver.check()
    assert "hunter2" not in str(caught.value) + caught.value.detail


def test_credentials_of_no_known_kind_are_invalid(site: OpenStackSim):
    with opened(access(site, token="x")) as driver, pytest.raises(Invalid):
        driver.check()


def test_environment_and_cloud_files_are_not_read(
    site: OpenStackSim, monkeypatch: pytest.MonkeyPatch, tmp_path
):
    (tmp_path / "clouds.yaml").write_text("clouds: {x: {auth: {auth_url: http://127.0.0.1:9/}}}")
    monkeypatch.chdir(tmp_path)
    for name in ("OS_CLOUD", "OS_AUTH_URL", "OS_USERNAME", "OS_REGION_NAME"):
        monkeypatch.setenv(name, "x")
    with opened(access(site)) as driver:
        assert driver.check().version


def test_a_site_that_is_down_is_unavailable_and_comes_back(
    site: OpenStackSim, driver: OpenStackDriver
):
    driver.check()
    site.faults.go_down()
    with pytest.raises(Unavailable):
        driver.check()
    site.faults.come_back()
    assert driver.check().version


def test_a_catalogue_that_came_garbled_is_asked_for_again(
    driver: OpenStackDriver, monkeypatch: pytest.MonkeyPatch
):
    plain, garbled = wire._Adapter.send, list[str]()

    def send(self: Any, request: requests.PreparedRequest, **named: Any) -> requests.Response:
        answer = plain(self, request, **named)
        url = str(request.url)
        if url.endswith("/auth/tokens") and not garbled:
            garbled.append(url)
            told = answer.json()
            told["token"]["catalog"] = told["token"]["catalog"][:1]
            answer._content = json.dumps(told).encode()
        return answer

    monkeypatch.setattr(wire._Adapter, "send", send)
    with pytest.raises(FedctlError):
        driver.check()
    assert garbled
    assert driver.check().version


def test_an_expired_token_is_renewed_without_a_word(site: OpenStackSim, driver: OpenStackDriver):
    driver.check()
    site.expire_tokens()
    assert driver.catalogue().networks


@pytest.fixture(scope="module")
def secured(tmp_path_factory) -> Iterator[tuple[str, str, str]]:
    """A server with a certificate of its own that refuses every login: URL, file, fingerprint."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    alternative = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    plain = serialization.NoEncryption()
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(pem, pkcs8, plain) + certificate.public_bytes(pem))

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        url = f"https://127.0.0.1:{server.server_port}/v3"
        yield url, str(file), certificate.fingerprint(hashes.SHA256()).hex()
        server.shutdown()
        thread.join()


def test_a_certificate_is_trusted_by_authority_or_by_pin_only(
    site: OpenStackSim, secured: tuple[str, str, str]
):
    url, file, pin = secured
    known = replace(access(site), endpoint=url)
    for wanted, reached in (
        (known, False),
        (replace(known, pins={"tls": "00" * 32}), False),
        (replace(known, pins={"tls": pin}), True),
        (replace(known, options={"ca_file": file}), True),
    ):
        with opened(wanted) as driver, pytest.raises(Denied) as caught:
            driver.check()
        assert ("401" in str(caught.value)) is reached, str(caught.value)


# What a site refuses.


def test_a_full_quota_is_exhausted_in_each_service(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    volume = VolumeSpec(name="v", size=GIB)
    site.knobs.quota["gigabytes"] = 0
    with pytest.raises(Exhausted):
        driver.create_volume(world.tag("volume"), volume)
    site.knobs.quota["gigabytes"] = 100
    site.knobs.quota["port"] = 0
    spec = world.spec(nics=(NicSpec(network=world.network or ""),))
    with pytest.raises(Exhausted):
        driver.create(world.tag("instance"), spec)
    site.knobs.quota["port"] = 10
    site.knobs.quota["instances"] = 0
    with pytest.raises(Exhausted):
        driver.create(world.tag("instance"), spec)
    assert driver.quota().instances == 0


def test_a_build_that_fails_tells_why(site: OpenStackSim, world: World):
    site.fail_build("No valid host was found. There are not enough hosts available.")
    owner, spec = world.tag("instance"), world.spec()
    world.create(owner, spec)

    def failed() -> str | None:
        match world.find(owner):
            case Seen(it) if it.state is InstanceState.FAILED:
                return it.why
            case _:
                return None

    assert "No valid host" in world.wait(failed, "the build failed")
    world.do(lambda: world.driver.delete(owner))
    world.gone(world.find, owner)


def test_a_volume_that_fails_is_seen_as_failed_and_can_go(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    site.fail_volume()
    owner = world.tag("volume")
    driver.create_volume(owner, VolumeSpec(name="v", size=GIB))

    def failed() -> bool:
        answer = driver.find_volume(owner)
        return isinstance(answer, Seen) and answer.it.state is VolumeState.FAILED

    world.until(failed, "the volume failed")
    driver.delete_volume(owner)
    world.gone(driver.find_volume, owner)


def test_a_snapshot_that_fails_is_seen_as_failed_and_can_go(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    owner = world.tag("snapshot")
    ref = world.seen(world.instance(world.spec())).ref
    site.fail_volume()
    driver.create_snapshot(owner, ref)

    def failed() -> bool:
        answer = driver.find_snapshot(owner)
        return isinstance(answer, Seen) and "in the state error" in answer.it.failed

    world.until(failed, "the snapshot failed")
    driver.delete_snapshot(owner)
    world.gone(driver.find_snapshot, owner)


def test_a_snapshot_of_which_a_volume_is_missing_is_not_ready(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    """Cinder makes one after another; when the first is there the second may not be."""
    owner = world.tag("snapshot")
    ref = world.seen(world.instance(world.spec(disks=2))).ref
    driver.create_snapshot(owner, ref)

    def ready() -> bool:
        answer = driver.find_snapshot(owner)
        return isinstance(answer, Seen) and answer.it.ready

    world.until(ready, "both are there")
    first, _ = sorted(each["id"] for each in site.world.all("snapshot"))
    kept = site.world.get("snapshot", first)
    site.world.drop("snapshot", first)
    assert not ready()
    site.world.put("snapshot", kept)
    assert ready()


def test_a_pull_that_the_site_will_not_do_is_told_as_such_and_leaves_nothing(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    site.knobs.allow_loopback_pull = False
    owner, file = world.tag("image"), world.published()
    with pytest.raises(Unsupported) as caught:
        driver.pull_image(owner, "i", file.source)
    assert caught.value.reason == "pull-refused"
    assert driver.find_image(owner) == Absent()
    ref = driver.push_image(owner, "i", file.source, chunks(file.data))
    assert world.image_ready(owner) == ref


def test_an_image_that_was_deleted_can_be_staged_again_under_its_tag(
    world: World, driver: OpenStackDriver
):
    owner, file = world.tag("image"), world.published()
    first = driver.push_image(owner, "i", file.source, chunks(file.data))
    driver.delete_image(owner)
    assert driver.find_image(owner) == Absent()
    second = driver.push_image(owner, "i", file.source, chunks(file.data))
    assert world.image_ready(owner) == second != first


def test_an_import_task_that_fails_is_seen(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    site.fail_import("The download failed")
    owner, file = world.tag("image"), world.published()
    driver.pull_image(owner, "i", file.source)

    def failed() -> bool:
        answer = driver.find_image(owner)
        return isinstance(answer, Seen) and answer.it.state is ImageState.FAILED

    world.until(failed, "the import failed")
    driver.pull_image(owner, "i", file.source)  # asking again begins it anew
    world.image_ready(owner)


def test_a_raw_image_with_a_senseless_boot_sector_is_invalid(world: World, driver: OpenStackDriver):
    file = world.published(pattern())
    with pytest.raises(Invalid):
        driver.push_image(world.tag("image"), "i", file.source, chunks(file.data))


# Bytes.


def exported(world: World, driver: OpenStackDriver) -> DiskSource:
    return DiskSource(volume=world.volume(image=world.image()).ref)


def whole(driver: OpenStackDriver, owner) -> tuple[bytes, int]:
    """The bytes that an export holds up to the guest's length, and the length of its disk."""
    got = bytearray(len(bootable()))
    reader = driver.open_export(owner)
    try:
        for extent in reader.extents():
            if extent.kind is ExtentKind.DATA:
                data = reader.read(extent.offset, extent.length)
                got[extent.offset : extent.offset + extent.length] = data
        return bytes(got), reader.size
    finally:
        reader.close()


def test_a_byte_that_flips_on_its_way_in_is_an_integrity_error(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    site.faults.corrupt(Direction.IN, offset=100_000)
    file = world.published()
    with pytest.raises(Integrity):
        driver.push_image(world.tag("image"), "i", file.source, chunks(file.data))


@pytest.mark.parametrize("offset", [200, 65536 * 3 + 17, -70_000])
def test_a_byte_that_flips_on_its_way_out_is_an_error(
    site: OpenStackSim, world: World, driver: OpenStackDriver, offset: int
):
    owner = world.prepare(exported(world, driver))
    size = next(r["size"] for r in site.world.all("image") if r["name"].startswith("fedctl."))
    site.faults.corrupt(Direction.OUT, offset=offset % size)
    with pytest.raises((Integrity, Invalid)):
        whole(driver, owner)
    assert site.faults.fired


def test_a_download_goes_on_over_broken_connections_and_expired_tokens(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    owner = world.prepare(exported(world, driver))
    driver.check()
    site.cut_downloads(3)
    site.expire_tokens()
    got, size = whole(driver, owner)
    assert hashlib.sha256(got).digest() == hashlib.sha256(bootable()).digest()
    assert size == GIB


def test_an_upload_whose_token_ended_is_to_be_sent_again(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    owner, file = world.tag("image"), world.published()

    def expiring() -> Iterator[bytes]:
        yield from chunks(file.data)

    driver.check()
    site.expire_tokens()
    try:
        driver.push_image(owner, "i", file.source, expiring())
    except Unavailable:
        driver.push_image(owner, "i", file.source, expiring())
    assert world.image_ready(owner)


def test_a_push_that_broke_off_is_begun_anew(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    owner, file = world.tag("image"), world.published()

    def breaking() -> Iterator[bytes]:
        yield file.data[:MIB]
        raise OSError("the source went away")

    with pytest.raises(Unavailable):
        driver.push_image(owner, "i", file.source, breaking())

    def sent() -> bool:
        try:
            driver.push_image(owner, "i", file.source, chunks(file.data))
        except Busy:
            return False
        return True

    world.until(sent, "the site noticed that the first push broke off")
    assert world.image_ready(owner)


def test_an_upload_that_cinder_gives_up_is_a_failed_export(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    source, owner = exported(world, driver), world.tag("export")

    def uploading() -> bool:
        driver.prepare_export(owner, source)
        return any(r["name"].startswith("fedctl.") for r in site.world.all("image"))

    site.slow_step("volume.upload", 10)
    world.until(uploading, "the upload began")
    site.fail_volume()

    def failed() -> bool:
        return driver.prepare_export(owner, source).stage is ExportStage.FAILED

    world.until(failed, "the upload failed")
    world.release(owner)


def test_an_export_that_is_released_while_it_is_uploaded_goes_all_the_same(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    source, owner = exported(world, driver), world.tag("export")
    site.slow_step("volume.upload", 5)

    def uploading() -> bool:
        driver.prepare_export(owner, source)
        return any(r["name"].startswith("fedctl.") for r in site.world.all("image"))

    world.until(uploading, "the upload began")
    world.release(owner)
    assert len(site.world.all("volume")) == 1
    assert site.world.troubles == []


# Instances.


def test_a_silent_cell_makes_instances_unknown_never_absent(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    owner = world.instance()
    site.knobs.cell_down = True
    assert isinstance(driver.find(owner), Unknown)
    with pytest.raises(Unavailable):
        list(driver.owned())
    site.knobs.cell_down = False
    assert isinstance(driver.find(owner), Seen)


@pytest.mark.parametrize("path", [r"/servers$", r"/ports$", r"/tags$"])
def test_a_create_whose_answer_was_lost_makes_no_second_one(
    site: OpenStackSim, world: World, driver: OpenStackDriver, path: str
):
    owner = world.tag("instance")
    spec = world.spec(nics=(NicSpec(network=world.network or "", isolated=True),))
    site.faults.fail(LostAnswer(), method="POST|PUT", path=path)
    with pytest.raises(Unavailable):
        driver.create(owner, spec)
    ref = world.create(owner, spec)
    assert world.seen(owner).ref == ref
    assert len(site.world.all("server")) == 1
    assert len(site.world.all("port")) == 1


def test_a_volume_whose_answer_was_lost_is_found_again(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    owner, spec = world.tag("volume"), VolumeSpec(name="v", size=GIB)
    site.faults.fail(LostAnswer(), method="POST", path=r"/volumes$")
    with pytest.raises(Unavailable):
        driver.create_volume(owner, spec)
    driver.create_volume(owner, spec)
    assert len(site.world.all("volume")) == 1


def test_a_port_whose_making_broke_off_is_seen_and_goes_with_its_instance(
    site: OpenStackSim, world: World, driver: OpenStackDriver
):
    owner = world.tag("instance")
    spec = world.spec(nics=(NicSpec(network=world.network or ""),))
    site.faults.fail(Status(code=500), method="PUT", path=r"/ports/.*/tags$")
    with pytest.raises(Unavailable):
        driver.create(owner, spec)
    assert world.owned_kinds(owner) == [ArtefactKind.NIC]
    driver.delete(owner)
    assert world.owned_kinds(owner) == []
    assert driver.find(owner) == Absent()


def test_a_deleted_instance_leaves_no_port(site: OpenStackSim, world: World):
    owner = world.instance(world.spec(nics=(NicSpec(network=world.network or ""),)))
    assert site.world.all("port")
    world.do(lambda: world.driver.delete(owner))
    world.gone(world.find, owner)
    world.until(lambda: not site.world.all("port"), "the port is gone")


def test_a_new_instance_is_never_connected_when_isolation_was_wished(
    world: World, witness: Witness
):
    nic = NicSpec(network=world.network or "", isolated=True)
    owner = world.instance(world.spec(image=world.image(), nics=(nic,)))
    runs = [run for identity in witness.identities() for run in witness.history(identity)]
    assert runs, "Nova started it once"
    assert not any(run.connected for run in runs)
    assert all(run.until for run in runs), "and it was stopped"
    assert world.seen(owner).power is Power.OFF


def test_a_guest_that_ignores_a_stop_is_cut_off(site: OpenStackSim, world: World):
    owner = world.loaded()
    world.power(owner, Power.ON)
    site.knobs.guest_ignores_acpi = True
    assert world.power(owner, Power.OFF).power is Power.OFF


def test_uefi_is_written_on_the_boot_volume(site: OpenStackSim, world: World):
    world.instance(replace(world.spec(), firmware=Firmware.UEFI))
    (volume,) = site.world.all("volume")
    assert volume["image_metadata"]["hw_firmware_type"] == "uefi"


def test_every_page_of_a_listing_is_read(site: OpenStackSim, world: World, driver: OpenStackDriver):
    site.knobs.max_page = 2
    owners = [world.tag("volume") for _ in range(5)]
    for owner in owners:
        driver.create_volume(owner, VolumeSpec(name="v", size=GIB))
    assert {f.owner.artefact for f in driver.owned()} == {o.artefact for o in owners}
    assert len(driver.catalogue().skus) == 6


def test_a_lack_of_import_narrows_the_capabilities(
    site: OpenStackSim, driver: OpenStackDriver, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("drivers.simulators.openstack.imports.METHODS", ("glance-direct",))
    assert Capability.IMAGE_PULL in driver.check().lacking


def test_an_export_of_a_disk_of_an_instance_is_a_sound_qcow2(
    site: OpenStackSim, world: World, driver: OpenStackDriver, tmp_path
):
    """An outside tool agrees, where this machine has one."""
    world.prepare(exported(world, driver))
    image = next(r for r in site.world.all("image") if r["name"].startswith("fedctl."))
    try:
        told = subprocess.run(
            ["qemu-img", "check", site.images.path(image["id"])], capture_output=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no qemu-img here")
    assert told.returncode == 0, told.stderr


def test_an_empty_gibibyte_goes_out_and_in_quickly(world: World, driver: OpenStackDriver):
    """Fixed cost of a disk: out as an export, in as an image and a volume of it."""
    volume = world.volume()
    begun = time.monotonic()
    owner = world.prepare(DiskSource(volume=volume.ref))
    reader = driver.open_export(owner)
    assert [extent.kind for extent in reader.extents()] == ["zero"]
    assert reader.size == GIB
    reader.close()
    out = time.monotonic() - begun
    file = world.published(bytes(MIB), DiskFormat.QCOW2)
    world.volume(image=world.image(bytes(MIB)))
    assert file.source.length < MIB
    took = time.monotonic() - begun
    assert took < 10, f"out {out:.2f} s, in {took - out:.2f} s"


def test_a_reader_holds_little_and_reads_each_block_once():
    content = uuid4().bytes * (4 * BLOCK)
    asked = []

    def fetch(offset: int, length: int) -> bytes:
        asked.append(length)
        return content[offset : offset + length]

    from drivers.openstack.reader import ImageBytes

    source = ImageBytes(
        fetch,
        size=len(content),
        algorithm="sha512",
        digest=hashlib.sha512(content).hexdigest(),
        what="x",
    )
    for at in range(0, len(content), 4096 * 100):
        length = min(4096 * 100, len(content) - at)
        assert source.read(at, length) == content[at : at + length]
    assert source.proven
    assert sum(asked) == len(content)


def test_many_lost_answers_make_nothing_twice_and_leave_nothing(tmp_path, gateway: Gateway):
    """Every call that changes something is repeated until it was answered, as a workflow does."""
    profile = replace(STEADY, lost_answers=0.15)
    knobs = Knobs(allow_loopback_pull=True)
    with (
        OpenStackSim(tmp_path / "c", name="s", profile=profile, knobs=knobs, seed=5) as site,
        opened(access(site)) as driver,
    ):
        network = driver.catalogue().networks[0].ref
        world = World(driver, gateway, guest=bootable(), network=network, deadline=20.0)

        def insist(call):
            return world.wait(lambda: call() or True, "it was answered")

        image = world.tag("image")
        file = world.published()
        insist(lambda: driver.pull_image(image, "i", file.source))
        ref = world.image_ready(image)
        for _ in range(3):
            volume, owner, export = (world.tag(kind) for kind in ("volume", "instance", "export"))
            wish = VolumeSpec(name="v", size=GIB, image=ref)
            insist(partial(driver.create_volume, volume, wish))
            held = world.volume_ready(volume).ref
            sku = driver.catalogue().skus[0]
            spec = InstanceSpec(
                name="web",
                sku=sku.name,
                size=sku.size,
                disks=(DiskPlace(size=GIB, volume=held),),
                nics=(NicSpec(network=network, isolated=True), NicSpec(network=network)),
            )
            insist(partial(driver.create, owner, spec))
            seen = world.seen(owner)
            assert [nic.isolated for nic in seen.nics] == [True, False]
            insist(partial(driver.fence, owner))
            world.prepare(DiskSource(volume=held, instance=seen.ref), owner=export)
        assert len(site.world.all("server")) == 3
        assert len(site.world.all("port")) == 6
        assert len(list(site.world.where("volume", name="v"))) == 3

        def gone(remove, find, owner) -> bool:
            remove(owner)
            return isinstance(find(owner), Absent)

        for kind, remove, find in (
            ("export", driver.release_export, driver.find_export),
            ("instance", driver.delete, driver.find),
            ("volume", driver.delete_volume, driver.find_volume),
            ("image", driver.delete_image, driver.find_image),
        ):
            for owner in world._made[kind].values():
                world.until(partial(gone, remove, find, owner), f"the {kind} is gone")
        kinds = ("server", "port", "volume", "snapshot", "image")
        assert not [record for kind in kinds for record in site.world.all(kind)]
        assert site.faults.fired, "some answers were lost"
        assert site.world.troubles == []


def test_many_connections_work_side_by_side(site: OpenStackSim, gateway: Gateway):
    def work(number: int) -> int:
        with opened(access(site)) as driver:
            world = World(driver, gateway, guest=bootable(), network=None, deadline=30.0)
            owner = world.instance()
            world.power(owner, Power.ON)
            world.power(owner, Power.OFF)
            world.clean()
            return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == list(range(8))
    assert site.world.troubles == []
