"""The life of images and VMs at the simulated oned: states, staleness, bytes, what outlives it."""

import heapq
import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pyone
import pytest

from controlplane.domain.disk import DiskFormat
from drivers.disks.ssh import Ssh, SshAccess
from drivers.simulators.faults import STEADY, Direction
from drivers.simulators.guest import format_journal, read_journal
from drivers.simulators.opennebula import OpenNebulaSim
from tests.contract.images import Gateway, Published, pattern
from tests.simulators.opennebula.conftest import Api, eventually


class Stepped:
    """The clock of a site stands: what is due comes when it is looked for, one after the other."""

    def __init__(self, sim: OpenNebulaSim, monkeypatch: pytest.MonkeyPatch) -> None:
        self._oned = sim.oned
        self._now, self._ticket = 0.0, itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        monkeypatch.setattr(sim.oned, "later", self._later)

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self._now + seconds, next(self._ticket), act))

    def path(self, state: Callable[[], object]) -> list[object]:
        """Every state that is passed until nothing more is due."""
        seen = [state()]
        while self._due:
            self._now, _, act = heapq.heappop(self._due)
            with self._oned.changing():
                act()
            if state() != seen[-1]:
                seen.append(state())
        return seen


# -- images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [DiskFormat.RAW, DiskFormat.QCOW2])
def test_an_image_is_fetched_as_it_is_and_its_size_is_the_disks(
    sim: OpenNebulaSim, api: Api, gateway: Gateway, form: DiskFormat
):
    published = gateway.publish(pattern(), form)
    image = api.one.image.info(api.image(published, SIZE="77", FORMAT="vmdk"))
    assert (1, 3, form.value) == (image.STATE, image.SIZE, image.FORMAT)
    assert sim.oned.file(image.SOURCE).read_bytes() == published.data


def test_an_image_is_asked_for_many_times_and_never_by_range(api: Api, gateway: Gateway):
    asked: list[tuple[str, str | None]] = []
    handler = gateway._server.RequestHandlerClass
    answer = handler._answer

    def noting(self, *, body: bool) -> None:
        asked.append((self.command, self.headers.get("Range")))
        answer(self, body=body)

    handler._answer = noting
    try:
        api.image(gateway.publish(pattern(seed=99), DiskFormat.RAW))
    finally:
        handler._answer = answer
    methods = [method for method, _ in asked]
    assert methods.count("HEAD") >= 1
    assert 4 <= methods.count("GET") <= 9
    assert {wanted for _, wanted in asked} == {None}


def test_an_address_that_answers_nothing_is_refused_at_once(api: Api, published: Published):
    gone = published.source.url + ".gone"
    with pytest.raises(pyone.OneException, match="Cannot determine Image SIZE"):
        api.one.image.allocate({"TEMPLATE": {"NAME": "x", "PATH": gone}}, 1)


def test_another_md5_shows_only_later(api: Api, published: Published):
    image = api.one.image.info(api.image(published, MD5="0" * 32))
    assert image.STATE == 5
    assert "Hash mismatch" in image.TEMPLATE["ERROR"]


def test_damage_on_the_way_is_on_the_disk(sim: OpenNebulaSim, api: Api, published: Published):
    sim.faults.corrupt(Direction.IN, offset=100)
    image = api.one.image.info(api.image(published))
    assert sim.oned.file(image.SOURCE).read_bytes() != published.data


def test_a_locked_image_needs_force_and_one_in_use_does_not_go(api: Api, published: Published):
    wish = {"TEMPLATE": {"NAME": "x", "PATH": published.source.url}}
    number = api.one.image.allocate(wish, 1)
    assert api.one.image.info(number).STATE == 4
    with pytest.raises(pyone.OneActionException, match="locked"):
        api.one.image.delete(number)
    api.one.image.delete(number, True)  # noqa: FBT003
    eventually(lambda: number not in [i.ID for i in api.one.imagepool.info(-2, -1, -1).IMAGE])
    volume = api.volume()
    api.vm(volume)
    assert api.one.image.info(volume).STATE == 8
    with pytest.raises(pyone.OneActionException, match="1 VMs using it"):
        api.one.image.delete(volume)


def test_a_clone_has_the_bytes_and_the_attributes(
    sim: OpenNebulaSim, api: Api, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
):
    original = api.image(gateway.publish(pattern(), DiskFormat.QCOW2), MARK="of the image")
    stepped = Stepped(sim, monkeypatch)
    number = api.one.image.clone(original, "clone", 1)
    assert api.one.image.info(original).STATE == 6
    with pytest.raises(pyone.OneActionException, match="active clone"):
        api.one.image.delete(original)
    assert stepped.path(lambda: api.one.image.info(number).STATE)[-1] == 1
    clone = api.one.image.info(number)
    assert clone.TEMPLATE["MARK"] == "of the image"
    assert not clone.PERSISTENT
    assert sim.oned.file(clone.SOURCE).read_bytes() == pattern()
    assert api.one.image.info(original).STATE == 1


def test_a_full_datastore_takes_nothing(sim: OpenNebulaSim, api: Api):
    sim.faults.fill_disk()
    with pytest.raises(pyone.OneException, match="Not enough space"):
        api.volume()


# -- VMs ---------------------------------------------------------------------------------------


def test_a_vm_goes_through_its_states_and_shows_the_old_one_first(
    sim: OpenNebulaSim, api: Api, monkeypatch: pytest.MonkeyPatch
):
    number = api.vm(api.volume())
    assert api.state(number) == (2, 0)
    stepped = Stepped(sim, monkeypatch)
    for action, states in {
        "release": [(2, 0), (1, 0), (3, 1), (3, 2), (3, 3)],
        "poweroff-hard": [(3, 3), (3, 18), (8, 0)],
        "resume": [(8, 0), (3, 20), (3, 3)],
        "undeploy-hard": [(3, 3), (3, 30), (9, 0)],
        "terminate-hard": [(9, 0), (3, 11), (6, 0)],
    }.items():
        api.one.vm.action(action, number)
        # The first of them is the one before: what was accepted does not show at once.
        assert stepped.path(lambda: api.state(number)) == states
    api.one.vm.action("terminate-hard", number)
    assert api.state(number) == (6, 0), "a VM that is DONE stays readable"


def test_an_action_for_another_state_is_refused_with_its_name(api: Api):
    number = api.vm()
    words = r'Error performing action "poweroff": This action is not available for state HOLD'
    with pytest.raises(pyone.OneActionException, match=words):
        api.one.vm.action("poweroff", number)


def test_a_vm_without_a_fitting_host_waits_and_says_why(api: Api):
    number = api.vm(hold=False, SCHED_REQUIREMENTS="NAME=nowhere")
    eventually(lambda: "SCHED_MESSAGE" in (api.one.vm.info(number).USER_TEMPLATE or {}))
    assert api.state(number) == (1, 0)


def test_a_persistent_image_is_for_one_vm(api: Api):
    volume = api.volume()
    first = api.vm(volume)
    with pytest.raises(pyone.OneInternalException, match="persistent and already in use"):
        api.vm(volume)
    api.one.vm.action("terminate-hard", first)
    api.reaches(first, 6, 0)
    assert api.vm(volume) != first


def test_a_locked_vm_takes_no_effect_but_unlock(api: Api):
    number = api.vm()
    api.one.vm.lock(number, 4)
    assert api.one.vm.info(number).LOCK.LOCKED == 1
    for effect in (
        lambda: api.one.vm.action("release", number),
        lambda: api.one.vm.update(number, 'A="b"', 1),
        lambda: api.one.vm.action("terminate-hard", number),
    ):
        with pytest.raises(pyone.OneAuthorizationException, match="VM is locked"):
            effect()
    api.one.vm.unlock(number)
    api.one.vm.update(number, 'A="b"', 1)
    api.one.vm.update(number, 'C="d"', 1)
    assert api.one.vm.info(number).USER_TEMPLATE == {"A": "b", "C": "d"}


def test_nics_are_plugged_while_running_or_off_and_not_on_hold(
    sim: OpenNebulaSim, api: Api, monkeypatch: pytest.MonkeyPatch
):
    nic = {"NIC": {"NETWORK_ID": "0", "MAC": "02:fe:00:00:00:07"}}
    number = api.vm(api.volume())
    with pytest.raises(pyone.OneActionException, match="wrong state HOLD"):
        api.one.vm.attachnic(number, {"TEMPLATE": nic})
    api.one.vm.action("release", number)
    api.reaches(number, 3, 3)
    stepped = Stepped(sim, monkeypatch)
    api.one.vm.attachnic(number, {"TEMPLATE": nic})
    assert stepped.path(lambda: api.state(number)) == [(3, 25), (3, 3)]
    assert api.one.vm.info(number).TEMPLATE["NIC"]["MAC"] == "02:fe:00:00:00:07"
    with pytest.raises(pyone.OneInternalException, match="lease"):
        api.vm(NIC={"NETWORK_ID": "0", "MAC": "02:fe:00:00:00:07"})
    api.one.vm.action("poweroff-hard", number)
    assert stepped.path(lambda: api.state(number))[-1] == (8, 0)
    api.one.vm.detachnic(number, 0)
    assert stepped.path(lambda: api.state(number)) == [(3, 65), (8, 0)]
    assert not sim.oned.networks[0].leases


# -- bytes and restarts ------------------------------------------------------------------------


def guest(sim: OpenNebulaSim, api: Api) -> tuple[int, Path, int]:
    """A VM with a guest that keeps a journal, its volume's file, and its id."""
    volume = api.volume()
    source = sim.oned.file(api.one.image.info(volume).SOURCE)
    with source.open("r+b") as file:
        file.write(journal_disk())
    number = api.vm(volume)
    api.one.vm.action("release", number)
    api.reaches(number, 3, 3)
    return number, source, volume


def journal_disk(identity: bytes = b"0123456789abcdef") -> bytes:
    """Four MiB with a partition whose guest keeps a journal."""
    raw = bytearray(4 << 20)
    raw[510:512], raw[450] = b"\x55\xaa", 0xDA
    raw[454:462] = (2048).to_bytes(4, "little") + (4096).to_bytes(4, "little")
    raw[1 << 20 : 3 << 20] = format_journal(identity, 2 << 20)
    return bytes(raw)


def records(file: Path) -> int:
    with file.open("rb") as reading:

        def read(offset: int, length: int) -> bytes:
            reading.seek(offset)
            return reading.read(length)

        journal = read_journal(read)
    assert journal is not None
    return journal.last


@pytest.mark.parametrize("tm", ["local", "shared"])
def test_where_a_guest_writes_depends_on_how_disks_are_transferred(tmp_path: Path, tm: str):
    with OpenNebulaSim(tmp_path / "one", profile=STEADY, seed=1, tm=tm) as sim:
        api = Api(sim)
        number, source, _ = guest(sim, api)
        host = sim.oned.file(f"/var/lib/one/datastores/0/{number}/disk.0")
        eventually(lambda: records(host) > 2)
        api.one.vm.action("poweroff-hard", number)
        api.reaches(number, 8, 0)
        assert host.is_symlink() is (tm == "shared")
        assert (records(source) == 0) is (tm == "local")
        written = records(host)
        api.one.vm.action("terminate-hard", number)
        api.reaches(number, 6, 0)
        assert records(source) == written


def test_a_site_goes_on_where_it_was(tmp_path: Path):
    sim = OpenNebulaSim(tmp_path / "one", profile=STEADY, seed=1)
    with sim:
        api = Api(sim)
        number, _, volume = guest(sim, api)
        url = sim.url
    with sim:
        assert sim.url == url
        again = Api(sim)
        assert again.state(number) == (3, 3)
        eventually(lambda: sim.guests.is_up(str(number)))
        assert again.one.image.info(volume).STATE == 8


def test_the_shell_knows_links_digests_and_nothing_else(
    sim: OpenNebulaSim, api: Api, published: Published
):
    source = api.one.image.info(api.image(published)).SOURCE
    host, port = sim.ssh_address
    access = SshAccess(
        host=host,
        port=port,
        user="oneadmin",
        private_key=sim.credentials.ssh_private_key,
        host_key=sim.credentials.ssh_host_key,
    )
    ssh = Ssh(access, timeout=5)
    try:
        assert ssh.run(f"readlink -f {source}").out.strip() == source
        assert ssh.run("mkdir -p /var/tmp/fedctl").status == 0
        script = """'sha256sum "$1" > "$2.new" && mv "$2.new" "$2"'"""
        assert ssh.run(f"setsid -f sh -c {script} sum {source} /var/tmp/fedctl/x.sum").status == 0
        deadline = time.monotonic() + 5
        while (told := ssh.run("cat /var/tmp/fedctl/x.sum")).status:
            assert time.monotonic() < deadline
        assert told.out.split() == [published.source.sha256, source]
        assert ssh.run("rm -f /etc/passwd").status == 1
        assert ssh.run("reboot").status == 127
        assert ssh.run(f"qemu-img resize -f raw {source} 512").status == 1
    finally:
        ssh.close()
