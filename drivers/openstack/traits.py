"""What a server has that another site cannot give it. Pure."""

from collections.abc import Iterable, Iterator

from controlplane.domain.instance import Trait, Traits, TraitSeen
from drivers.openstack import mapping
from drivers.openstack.mapping import Payload

_MARKS = (mapping.SNAPSHOT_ID, mapping.EXPORT_ID)
_PLACED = ("hw:numa_nodes", "hw:mem_page_size", "hw:cpu_policy", "hw:cpu_realtime")


def traits(
    server: Payload,
    volumes: Iterable[Payload],
    ports: Iterable[Payload],
    snapshots: Iterable[Payload],
) -> Traits:
    """`snapshots` are those of its volumes; a lock stands for what protects a server here."""
    found = [*_of_server(server), *_of_flavor(server.get("flavor") or {})]
    for volume in volumes:
        found += _of_volume(volume)
    for port in ports:
        if (kind := str(port.get("binding:vnic_type") or "normal")) != "normal":
            words = f"a nic of the kind {kind} ({port.get('mac_address')})"
            found.append(TraitSeen(trait=Trait.DEVICE, words=words))
    names = [str(s.get("name") or s.get("id")) for s in snapshots if not _is_ours(s)]
    if names:
        found.append(TraitSeen(trait=Trait.SNAPSHOTS, words=f"snapshots {', '.join(names)}"))
    return Traits(looked=frozenset(Trait), found=tuple(found))


def _is_ours(snapshot: Payload) -> bool:
    metadata = snapshot.get("metadata") or {}
    return any(key in metadata for key in (mapping.OURS, *_MARKS))


def _of_server(server: Payload) -> Iterator[TraitSeen]:
    if server.get("locked") and not mapping.is_fenced(server):
        why = str(server.get("locked_reason") or "no reason is told")
        yield TraitSeen(trait=Trait.LOCKED, words=f"a lock ({why})")
    if server.get("image"):
        yield TraitSeen(
            trait=Trait.EPHEMERAL_DISK, words="a root disk that is no volume but a host's"
        )
    if groups := server.get("server_groups"):
        words = f"server groups {', '.join(map(str, groups))}"
        yield TraitSeen(trait=Trait.PLACEMENT, words=words)


def _of_flavor(flavor: Payload) -> Iterator[TraitSeen]:
    for kind, trait in (("ephemeral", Trait.EPHEMERAL_DISK), ("swap", Trait.SWAP_DISK)):
        if flavor.get(kind):
            yield TraitSeen(trait=trait, words=f"a {kind} disk of its flavor")
    for key, value in sorted((flavor.get("extra_specs") or {}).items()):
        words = f"{key}={value} of its flavor"
        if key.startswith(("pci_passthrough:", "resources:VGPU")):
            yield TraitSeen(trait=Trait.DEVICE, words=words)
        elif key.startswith("hw:tpm"):
            yield TraitSeen(trait=Trait.TPM, words=words)
        elif key == "os:secure_boot" and value != "disabled":
            yield TraitSeen(trait=Trait.SECURE_BOOT, words=words)
        elif key.startswith(_PLACED):
            yield TraitSeen(trait=Trait.PLACEMENT, words=words)


def _of_volume(volume: Payload) -> Iterator[TraitSeen]:
    described, ref = volume.get("volume_image_metadata") or {}, volume.get("id")
    if not volume.get("size"):
        words = f"volume {ref}, which this project may not see"
        yield TraitSeen(trait=Trait.HIDDEN_DISK, words=words)
    if len(volume.get("attachments") or ()) > 1:
        words = f"volume {ref}, which others have attached as well"
        yield TraitSeen(trait=Trait.SHARED_DISK, words=words)
    if volume.get("encrypted"):
        words = f"volume {ref}, which the site encrypts: what it exports is encrypted, too"
        yield TraitSeen(trait=Trait.ENCRYPTED_DISK, words=words)
    if str((volume.get("metadata") or {}).get("readonly")) == "True":
        yield TraitSeen(trait=Trait.READ_ONLY_DISK, words=f"volume {ref}, which is read-only")
    if (machine := described.get("hw_architecture") or "x86_64") != "x86_64":
        yield TraitSeen(trait=Trait.MACHINE, words=f"the architecture {machine}")
    if "hw_tpm_version" in described:
        yield TraitSeen(trait=Trait.TPM, words=f"a vTPM ({described['hw_tpm_version']})")
    if described.get("os_secure_boot") in {"required", "optional"}:
        words = f"os_secure_boot={described['os_secure_boot']}"
        yield TraitSeen(trait=Trait.SECURE_BOOT, words=words)
