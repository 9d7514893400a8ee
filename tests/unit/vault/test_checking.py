"""A check sees every damage there is, names its place, and calls nothing damaged that is not."""

import random
import re
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from threading import Condition, Lock
from uuid import UUID

import pytest

from controlplane.domain.disk import ExtentKind
from controlplane.domain.errors import Unavailable
from controlplane.domain.finding import Severity
from controlplane.domain.ids import InstanceId, TenantName
from controlplane.domain.vault import Depth, PackState
from controlplane.vault import flaws
from controlplane.vault.checking import Check, CheckOrder, CheckProgress
from controlplane.vault.heads import HEADS
from controlplane.vault.local import LocalObjects
from controlplane.vault.naming import Affected
from controlplane.vault.nouns import CopyStopped
from controlplane.vault.pack import Packs
from controlplane.vault.sealing import Unsealable
from tests.unit.vault.support import (
    CHUNK,
    DOMAIN,
    INSTANCE,
    Bytes,
    Seal,
    World,
    commit,
    copy,
    keys,
    new_point,
    read_all,
    some_disk,
)
from tests.unit.vault.test_damage import flip

STRUCTURE = CheckOrder(depth=Depth.STRUCTURE)
FULL = CheckOrder(depth=Depth.FULL)
OTHER = InstanceId(UUID(int=8))


def check(vault, order=FULL, **more):
    return vault.check(order, name=lambda tenant, instance: f"{tenant}/{instance.int}", **more)


def take(vault, data: bytes, instance: InstanceId) -> None:
    point = new_point()
    copy(vault, data, point=point)
    commit(vault, point, instance=instance)


def ids(checked) -> list[str]:
    return [finding.id for finding in checked.findings]


def told(checked, id: str) -> str:
    [found] = [f for f in checked.findings if f.id == id]
    return f"{found.subject}: {found.evidence}"


def test_a_sound_vault_has_no_findings(world, vault):
    data = some_disk(1, "RTZR")
    base, _ = world.take(vault, data)
    world.take(vault, Bytes(data, [(len(data), ExtentKind.UNCHANGED)]), base=base)
    take(vault, some_disk(2, "ZZ"), OTHER)
    forgotten, _ = world.take(vault, some_disk(3, "R"))
    vault.forget(forgotten)
    for depth in Depth:
        checked = check(vault, CheckOrder(depth=depth))
        assert checked.findings == ()
        assert not checked.damaged
    assert checked.packs == len(world.files("packs"))
    assert checked.blobs == sum(len(p.blobs) for p in opened(world))
    assert 0 < checked.read < sum(p.stat().st_size for p in world.files("packs"))


def opened(world: World, domain: str = DOMAIN):
    packs = Packs(objects=world.objects, keys=keys)
    return [packs.open(domain, pack) for pack in sorted(world.records.known_packs())]


def test_a_running_copy_is_no_finding(world, vault):
    copy(vault, some_disk(4, "RR"), point=new_point())
    assert PackState.SEALED in world.records.states(world.records.known_packs()).values()
    assert check(world.vault()).findings == ()


def test_a_flipped_bit_in_a_blob_is_named_by_instance_disk_and_offset_in_every_point(world, vault):
    data = some_disk(5, "RRRR")
    first, _ = world.take(vault, data)
    second, _ = world.take(vault, Bytes(data, [(len(data), ExtentKind.UNCHANGED)]), base=first)
    pack = max(world.files("packs"), key=lambda path: path.stat().st_size)
    flip(pack, CHUNK * 2)
    assert check(world.vault(), STRUCTURE).findings == ()
    checked = check(world.vault())
    assert checked.damaged
    assert ids(checked) == ["VLT05", "VLT07"]
    assert pack.name in told(checked, "VLT05")
    text = told(checked, "VLT07")
    assert text.startswith("acme/7, disk 0: damaged 65536 bytes from offset ")
    assert f"in 2 recovery point(s): {first}, {second}" in text
    named = int(text.split("offset ")[1].split(" ")[0])
    assert named % CHUNK == 0
    with pytest.raises(Exception, match=f"offset {named}: "):
        read_all(world.vault(), first)
    # What the check saw stays on record: less deep checks name it, too, until it is stored again.
    assert ids(check(world.vault(), STRUCTURE)) == ["VLT07"]
    _, again = world.take(world.vault(), data)
    assert again.bytes_new == CHUNK
    healed = check(world.vault())
    assert ids(healed) == ["VLT05", "VLT08"]
    assert f"from offset {named} and stored again" in told(healed, "VLT08")
    assert read_all(world.vault(), first) == data


def severities(checked) -> dict[str, Severity]:
    return {finding.id: finding.severity for finding in checked.findings}


@pytest.mark.parametrize(("how", "blobs"), [("a flipped bit", 1), ("all of its chunks", 4)])
def test_damage_is_a_blocker_until_every_point_that_is_kept_restores(world, vault, how, blobs):
    data = some_disk(20, "RRRR")
    older, _ = world.take(vault, data)
    other, _ = world.take(vault, some_disk(21, "RR"))  # so that a later pass keeps its own pages
    pack = max(world.files("packs"), key=lambda path: path.stat().st_size)
    if how == "a flipped bit":
        flip(pack, CHUNK * 2)
    else:
        spoil_chunks(world, pack)
    broken = check(world.vault())
    assert broken.damaged
    assert severities(broken) == {"VLT05": Severity.BLOCKER, "VLT07": Severity.BLOCKER}
    assert broken.measured.damaged == blobs
    newer, _ = world.take(world.vault(), data)
    for _ in range(2):
        healed = check(world.vault())
        assert not healed.damaged
        assert severities(healed) == {"VLT05": Severity.WARNING, "VLT08": Severity.INFO}
        assert healed.measured.damaged == 0
    vault.forget(newer)
    for _ in range(2):
        world.vault().collect(holding=timedelta(0))
    assert not check(world.vault()).damaged
    assert read_all(world.vault(), older) == data
    assert read_all(world.vault(), other) == some_disk(21, "RR")


def test_a_point_whose_manifest_is_lost_stays_a_blocker_until_it_is_not_kept_any_more(world, vault):
    """Its chunks are stored again, its pages are its own."""
    data = some_disk(29, "RRRR")
    older, _ = world.take(vault, data)
    [pack] = world.files("packs")
    pack.unlink()
    check(world.vault())
    newer, _ = world.take(world.vault(), data)
    checked = check(world.vault())
    assert severities(checked) == {"VLT03": Severity.BLOCKER, "VLT07": Severity.BLOCKER}
    assert checked.measured.damaged == 1
    assert str(older) in told(checked, "VLT07")
    assert str(newer) not in told(checked, "VLT07")
    vault.forget(older)
    gone = check(world.vault())
    assert not gone.damaged
    assert severities(gone) == {"VLT03": Severity.WARNING}
    vault.collect(holding=timedelta(0))
    assert check(world.vault()).findings == ()


def test_damage_in_a_disk_of_several_pages_is_named_where_it_is(world, vault):
    """Two neighbours and one apart, behind the first page of 512 chunks; then stored again."""
    data = some_disk(30, "R" + "Z" * 599 + "RRRR" + "Z" * 500 + "R")
    point, _ = world.take(vault, data)
    for chunk in (601, 602, 1104):
        plain = data[chunk * CHUNK : (chunk + 1) * CHUNK]
        [(pack, at)] = [(p, at) for p in world.files("packs") for at in places(world, p, plain)]
        flip(pack, at + 9)
    text = told(check(world.vault()), "VLT07")
    offsets = f"{601 * CHUNK}, {1104 * CHUNK}"
    assert text == (
        f"acme/7, disk 0: damaged {3 * CHUNK} bytes from offset {offsets} in 1 recovery point(s):"
        f" {point}"
    )
    world.take(world.vault(), data)
    healed = check(world.vault())
    assert not healed.damaged
    assert f"damaged {3 * CHUNK} bytes from offset {offsets} and stored again" in told(
        healed, "VLT08"
    )


def places(world: World, pack: Path, plain: bytes) -> list[int]:
    """Where in the pack's file blobs of that content begin."""
    packs = Packs(objects=world.objects, keys=keys)
    it = packs.open(DOMAIN, bytes.fromhex(pack.name))
    found = []
    for at, blob in enumerate(it.blobs):
        with suppress(Unsealable):
            sealed = packs.read(it, blob.offset, blob.stored)
            if it.cipher.open(at, blob, sealed, it.id_key) == plain:
                found.append(blob.offset)
    return found


def spoil_chunks(world: World, pack: Path) -> None:
    """All of the pack's chunks, not its pages and its table."""
    [it] = [each for each in opened(world) if each.id.hex() == pack.name]
    for blob in it.blobs:
        if not blob.codec & 0x10:
            flip(pack, blob.offset + 9)


def test_what_was_stored_again_is_read_there_before_it_is_called_healed(world, vault):
    """And where that is damaged too, it is stored once more by the pass after that."""
    data = some_disk(22, "RRRR")
    older, _ = world.take(vault, data)
    [first] = world.files("packs")
    flip(first, CHUNK * 2)
    check(world.vault())
    world.take(world.vault(), data)
    assert ids(check(world.vault(), STRUCTURE)) == ["VLT08"]
    [second] = [path for path in world.files("packs") if path != first]
    flip(second, 2000)
    again = check(world.vault(), STRUCTURE)
    assert again.damaged
    assert ids(again) == ["VLT07"]
    _, copied = world.take(world.vault(), data)
    assert copied.bytes_new == CHUNK
    assert not check(world.vault()).damaged
    assert read_all(world.vault(), older) == data


def test_what_heals_a_point_is_held_for_it_from_the_check_on(world, vault):
    """However the point that stored it goes: as here by a restored database."""
    data = some_disk(23, "RRRR")
    older, _ = world.take(vault, data)
    [pack] = world.files("packs")
    flip(pack, CHUNK * 2)
    check(world.vault())
    newer, _ = world.take(world.vault(), data)
    assert not check(world.vault(), STRUCTURE).damaged
    world.records.forget(newer)
    for _ in range(2):
        world.vault().collect(holding=timedelta(0))
    assert read_all(world.vault(), older) == data


@pytest.mark.parametrize("depth", list(Depth))
def test_a_pack_that_was_brought_back_is_no_damage_any_more(world, vault, depth):
    data = some_disk(24, "RRRR")
    world.take(vault, data)
    [pack] = world.files("packs")
    kept = pack.read_bytes()
    for harm in (lambda: flip(pack, CHUNK * 2), pack.unlink, lambda: pack.write_bytes(kept[:-9])):
        harm()
        assert check(world.vault()).damaged
        pack.write_bytes(kept)
        sound = check(world.vault(), CheckOrder(depth=depth))
        assert (sound.damaged, ids(sound), sound.measured.damaged) == (False, [], 0)
        assert world.records.damaged(DOMAIN) == frozenset()
        assert copy(world.vault(), data, point=new_point()).bytes_new == 0


@pytest.mark.parametrize("depth", list(Depth))
def test_a_pack_that_was_brought_back_in_part_stays_damaged(world, vault, depth):
    data = some_disk(25, "RRRR")
    world.take(vault, data)
    [pack] = world.files("packs")
    kept = pack.read_bytes()
    pack.unlink()
    assert check(world.vault()).damaged
    pack.write_bytes(kept)
    flip(pack, CHUNK * 2)
    assert check(world.vault(), CheckOrder(depth=depth)).damaged
    assert world.records.damaged(DOMAIN)


def test_damage_that_no_point_needs_is_told_and_no_blocker(world, vault):
    copy(vault, some_disk(26, "RR"), point=new_point())
    [pack] = world.files("packs")
    flip(pack, CHUNK)
    checked = check(world.vault())
    assert not checked.damaged
    assert severities(checked) == {"VLT05": Severity.WARNING}
    assert "every recovery point can be restored without it" in told(checked, "VLT05")


def test_a_point_that_was_committed_while_a_check_ran_is_named_by_it(world, vault):
    class Busy:
        """A store that takes a point, and spoils it, once packs are listed."""

        def __init__(self) -> None:
            self.began = False

        def __getattr__(self, name: str):
            return getattr(world.objects, name)

        def size(self, name: str) -> int:
            if not self.began:
                self.began = True
                before = set(world.files("packs"))
                self.point, _ = world.take(world.vault(), some_disk(28, "RR"))
                [newest] = set(world.files("packs")) - before
                flip(newest, CHUNK)
            return world.objects.size(name)

    world.take(vault, some_disk(27, "R"))
    busy = Busy()
    checked = check(world.vault(objects=busy))
    assert checked.damaged
    assert str(busy.point) in told(checked, "VLT07")


@pytest.mark.parametrize("harm", ["gone", "cut", "longer", "header", "table", "footer"])
def test_a_pack_that_is_gone_or_not_whole_is_found_by_its_structure(world, vault, harm):
    data = some_disk(6, "RRZR")
    point, _ = world.take(vault, data)
    [pack] = world.files("packs")
    size = pack.stat().st_size
    if harm == "gone":
        pack.unlink()
    elif harm == "cut":
        pack.write_bytes(pack.read_bytes()[:-1])
    elif harm == "longer":
        pack.write_bytes(pack.read_bytes() + b"\0")
    else:
        flip(pack, {"header": 20, "table": size - 40, "footer": size - 12}[harm])
    checked = check(world.vault(), STRUCTURE)
    assert ids(checked) == ["VLT03" if harm == "gone" else "VLT04", "VLT07"]
    assert f"damaged {len(data)} bytes from offset 0 in 1 recovery point(s): {point}" in told(
        checked, "VLT07"
    )


def test_a_damaged_page_of_a_manifest_is_found_by_structure(world, vault):
    data = some_disk(7, "R")
    world.take(vault, data)
    [pack] = world.files("packs")
    [it] = opened(world)
    [page] = [blob for blob in it.blobs if blob.codec & 0x10]
    flip(pack, page.offset + 5)
    checked = check(world.vault(), STRUCTURE)
    assert ids(checked) == ["VLT07"]
    assert ids(check(world.vault())) == ["VLT05", "VLT07"]


def test_heads_and_roots_that_are_lost_changed_or_hidden_are_found(world, vault):
    first, _ = world.take(vault, b"one")
    second, _ = world.take(vault, b"two")
    heads, [root] = world.files("heads"), world.files(f"points/{first.hex}")
    kept = {path: path.read_bytes() for path in (*heads, root)}

    def restored() -> None:
        for path, body in kept.items():
            path.write_bytes(body)

    flip(root, 60)
    assert ids(check(vault, STRUCTURE)) == ["VLT01"]
    restored()
    heads[1].unlink()
    checked = check(vault, STRUCTURE)
    assert f"recovery point {second}" in told(checked, "VLT01")
    restored()
    heads[0].unlink()
    assert "number 1 is missing" in told(check(vault, STRUCTURE), "VLT02")
    restored()
    heads[0].write_bytes(kept[heads[1]])
    assert ids(check(vault, STRUCTURE)) == ["VLT01", "VLT02"]
    restored()
    vault.forget(second)
    heads[1].unlink()  # of a point that nobody retains: only the chain can tell
    assert check(vault, STRUCTURE).findings == ()
    world.take(vault, b"three")
    restored()
    heads[1].unlink()
    assert "number 2 is missing" in told(check(vault, STRUCTURE), "VLT02")


def test_a_head_newer_than_the_records_is_found(world, vault):
    world.take(vault, b"one")
    older = {**world.records._last}
    world.take(vault, b"two")
    world.records._last = older
    world.records._points.popitem()
    checked = check(vault, STRUCTURE)
    assert "the store shows number 2, the last on record is number 1" in told(checked, "VLT02")


def test_a_missing_key_is_no_damage(world, vault):
    world.take(vault, some_disk(8, "R"))
    other = world.vault(keys=lambda domain: replace(keys(domain), data_key_id="other"))
    checked = check(other)
    assert set(ids(checked)) <= {"VLT01", "VLT06", "VLT09"}
    assert "bring the key back" in told(checked, "VLT06")
    assert world.records.damaged(DOMAIN) == frozenset()


def test_a_damaged_segment_and_objects_of_nobody_are_told_and_cost_nothing(world, vault):
    world.take(vault, some_disk(9, "R"))
    [segment] = world.files("index")
    flip(segment, 80)
    world.objects.put("packs/ab/" + "ab" * 32, b"x")
    world.objects.put("packs/no/pack", b"x")
    world.objects.put(f"points/{new_point().hex}/x", b"x")
    checked = check(vault)
    assert ids(checked) == ["VLT09", "VLT10", "VLT10", "VLT10"]
    assert not checked.damaged
    assert len(world.files("packs")) == 3


def test_samples_take_their_turns_and_miss_no_blob(world, vault):
    for seed in range(6):
        take(vault, some_disk(seed, "RTRTZRRT"), InstanceId(UUID(int=seed + 1)))
    share = 0.25
    packs = opened(world)
    per_turn = []
    for turn in range(4):
        order = CheckOrder(depth=Depth.SAMPLE, share=share, turn=turn)
        per_turn.append({(p.id, i) for p in packs for i in order.blobs(p)})
        assert check(vault, order).blobs == len(per_turn[-1])
        assert {pack for pack, _ in per_turn[-1]} == {p.id for p in packs}
    assert set.union(*per_turn) == {(p.id, i) for p in packs for i in range(len(p.blobs))}
    assert sum(map(len, per_turn)) == len(set.union(*per_turn))


def test_repeated_samples_find_any_damage(world, vault):
    data = some_disk(10, "RRRRRRRR")
    world.take(vault, data)
    pack = max(world.files("packs"), key=lambda path: path.stat().st_size)
    flip(pack, random.Random(3).randrange(200, pack.stat().st_size - 1000))
    orders = [CheckOrder(depth=Depth.SAMPLE, share=0.2, turn=turn) for turn in range(5)]
    assert sum("VLT05" in ids(check(world.vault(), order)) for order in orders) == 1


def test_a_check_that_was_stopped_goes_on_where_it_was(world, vault):
    for seed in range(4):
        take(vault, some_disk(seed, "RRRR"), InstanceId(UUID(int=seed + 1)))
    whole = check(vault)
    places = sorted(f"{DOMAIN} {pack.hex()}" for pack in world.records.known_packs())
    rest = check(vault, replace(FULL, after=places[1]))
    assert 0 < rest.blobs < whole.blobs
    assert rest.measured == whole.measured
    assert check(vault, replace(FULL, after=places[-1])).blobs == 0

    class Held:
        """A store in which reading waits until the check was told to stop."""

        def __init__(self, inner) -> None:
            self.inner = inner
            self.asked = False

        def __getattr__(self, name: str):
            return getattr(self.inner, name)

        def get(self, *args):
            while not self.asked:
                pass
            return self.inner.get(*args)

    held = Held(world.objects)

    def cancelled() -> bool:
        held.asked = True
        return True

    with pytest.raises(CopyStopped):
        check(world.vault(objects=held), cancelled=cancelled)


def watched(world: World, order: CheckOrder) -> list[CheckProgress]:
    """How far a check said it was at each read of a pack, and at its end."""
    seen: list[CheckProgress] = []
    vault = world.vault()
    in_turn = Lock()

    class Watching:
        def __getattr__(self, name: str):
            return getattr(world.objects, name)

        def get(self, name: str, *rest):
            if name.startswith("packs"):
                with in_turn:
                    seen.append(it._seen())
            return world.objects.get(name, *rest)

    it = Check(
        order, records=world.records, objects=Watching(), keys=keys, signer=Seal(),
        index=vault._index, read_root=vault._read_root, name=lambda tenant, instance: "x",
    )  # fmt: skip
    it.run(lambda progress: progress.ended and seen.append(progress), lambda: False)
    return seen


@pytest.mark.parametrize(
    ("order", "share"),
    [(STRUCTURE, 0.1), (CheckOrder(depth=Depth.SAMPLE, share=0.25), 0.5), (FULL, 1.1)],
    ids=["structure", "sample", "full"],
)
def test_progress_is_in_bytes_that_were_read_and_the_rest_is_well_guessed(
    world, vault, order, share
):
    base = None
    for seed in range(6):
        data = some_disk(seed, "RTRR" * 8 + "Z" * 600)
        base, _ = world.take(vault, data)
        changed = data[:CHUNK] + some_disk(seed + 100, "R") + data[2 * CHUNK :]
        world.take(vault, changed, base=base)
    seen = watched(world, order)
    stored = sum(path.stat().st_size for path in world.files("packs"))
    last = seen[-1]
    assert last.done == last.total
    assert 0 < last.done < share * stored
    assert [each.done for each in seen] == sorted(each.done for each in seen)
    assert all(last.total / 2 < each.total < last.total * 2 for each in seen)
    late = [each for each in seen if each.done > 0.7 * last.done]
    assert all(0.8 * last.total < each.total < 1.3 * last.total for each in late)


def test_what_a_stopped_check_has_read_is_not_expected_to_be_read_again(world, vault):
    for seed in range(4):
        take(vault, some_disk(seed, "RRRR"), InstanceId(UUID(int=seed + 1)))
    places = sorted(f"{DOMAIN} {pack.hex()}" for pack in world.records.known_packs())
    whole = watched(world, FULL)[0].total
    assert watched(world, replace(FULL, after=places[1]))[0].total < 0.7 * whole
    assert watched(world, replace(FULL, after=places[-1]))[0].total < 0.2 * whole


def test_heads_of_a_store_that_is_far_away_are_read_several_at_a_time(tmp_path):
    far = Far(tmp_path)
    world = World(tmp_path, far)
    try:
        vault = world.vault()
        for number in range(4):
            world.take(vault, some_disk(number, "T"))
        far.meet = 4
        assert check(vault, STRUCTURE).findings == ()
        assert far.most >= far.meet
        far.meet = 0
        heads = sorted(world.files("heads"))
        heads[1].unlink()
        assert "number 2 is missing" in told(check(vault, STRUCTURE), "VLT02")
    finally:
        world.close()


class Far(LocalObjects):
    """Heads are given when `meet` of them were asked for at the same time."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.meet = self.most = self._now = 0
        self._met = Condition()

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        if name.startswith(HEADS):
            with self._met:
                self._now += 1
                self.most = max(self.most, self._now)
                self._met.notify_all()
                self._met.wait_for(lambda: self.most >= self.meet, 10)
                self._now -= 1
        return super().get(name, offset, length)


def test_a_store_that_is_away_is_no_damage(world, vault):
    world.take(vault, some_disk(11, "RR"))

    class Away:
        def __getattr__(self, name: str):
            return getattr(world.objects, name)

        def get(self, name: str, *args):
            if name.startswith("packs"):
                raise Unavailable("the store does not answer")
            return world.objects.get(name, *args)

    with pytest.raises(Unavailable):
        check(world.vault(objects=Away()))
    assert world.records.damaged(DOMAIN) == frozenset()


def test_what_was_given_up_meanwhile_is_no_damage(world, vault):
    point, _ = world.take(vault, some_disk(12, "R"))
    vault.forget(point)
    world.records.condemn(world.clock())
    for path in world.files("packs"):
        path.unlink()
    assert check(vault).findings == ()


def test_usage_counts_what_is_shared_once_and_what_each_has_for_itself(world, vault):
    shared, mine = some_disk(13, "RRRR"), some_disk(14, "RR")
    first, one = world.take(vault, shared + mine)
    take(vault, shared, OTHER)
    measured = check(vault, STRUCTURE).measured
    by = {workload.instance: usage for workload, usage in measured.workloads.items()}
    assert by[INSTANCE].logical == by[INSTANCE].referenced == 6 * CHUNK
    assert by[INSTANCE].unique == 6 * CHUNK
    assert by[OTHER].unique == 4 * CHUNK
    assert by[INSTANCE].next_new == one.bytes_new == 6 * CHUNK
    assert by[OTHER].next_new == 0
    total = measured.total
    assert (total.workloads, total.points) == (2, 2)
    assert total.logical == 10 * CHUNK
    assert total.unique == 6 * CHUNK
    assert 6 * CHUNK < total.stored < 6 * CHUNK + 20_000
    assert total.ratio == pytest.approx(10 / 6, rel=0.01)
    assert 2 * CHUNK < by[INSTANCE].exclusive < 2 * CHUNK + 10_000
    assert by[OTHER].exclusive < 5_000  # its own manifest
    assert measured.tenants == {TenantName("acme"): total}
    assert measured.waste == 0
    files = {path.name: path.stat().st_size for path in world.files("packs")}
    assert total.freed == sum(measured.pack_bytes.values()) == sum(files.values())
    assert by[OTHER].freed == min(files.values())
    vault.forget(first)
    after = check(vault, STRUCTURE).measured
    assert after.waste == by[INSTANCE].exclusive
    assert after.total.exclusive == after.total.stored == total.stored - by[INSTANCE].exclusive
    world.clock.pass_by(timedelta(hours=1))
    vault.collect(holding=timedelta(0))
    assert check(vault, STRUCTURE).measured.waste == after.waste  # in the pack that OTHER needs


def test_many_findings_of_one_kind_hide_none_of_another():
    """A store that lost very much still names whom it concerns."""
    found = flaws.Flaws(lambda tenant, instance: f"{tenant}/{instance.int}")
    for number in range(3000):
        found.pack(number.to_bytes(32, "big"), missing=True, needed=False)
        found.strange(f"packs/{number}")
    found.pack(b"\xff" * 32, missing=True, needed=True)
    extents = ((0, CHUNK),)
    found.affected(
        Affected(
            tenant=TenantName("acme"), instance=INSTANCE, disk=0, extents=extents, again=(),
            points=(new_point(),),
        )
    )  # fmt: skip
    told = found.findings()
    blockers = [finding.id for finding in told if finding.severity is Severity.BLOCKER]
    assert blockers == ["VLT03", "VLT07"]
    assert told[-1].id == "VLT00"
    assert told[-1].evidence == f"{3000 + 3000 + 2 - (len(told) - 1)} more findings are left out"
    assert len(told) < 1000


def test_every_finding_is_in_the_list_of_findings():
    code = Path(flaws.__file__).read_text(encoding="utf-8")
    page = (Path(flaws.__file__).parents[2] / "docs/vault-checks.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| (VLT\d\d) \| (\w+)", page, re.MULTILINE)
    assert {code for code, _ in listed} == set(re.findall(r"\"(VLT\d\d)\"", code))
    assert {severity for _, severity in listed} <= {s.value for s in Severity}
