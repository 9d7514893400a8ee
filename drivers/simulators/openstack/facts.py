"""What this simulator models of OpenStack, where each fact comes from, and what it leaves out."""

from dataclasses import dataclass
from enum import StrEnum


class Provenance(StrEnum):
    OBSERVED = "observed"  # seen on a real cloud of release 2026.2; most are in the transcripts
    SCHEMA = "schema"  # in the published API reference
    ASSUMED = "assumed"  # nobody looked yet
    ABSENT = "not modelled"


@dataclass(frozen=True, slots=True)
class Fact:
    id: str
    provenance: Provenance
    text: str


_O, _S, _A, _N = Provenance

FACTS = (
    Fact("auth-token", _O, "a token in X-Subject-Token, with expiry and catalogue; 401 without it"),
    Fact("auth-credential", _S, "application credentials give the roles they were made with"),
    Fact("auth-expiry", _S, "an expired token answers 401 with WWW-Authenticate"),
    Fact("versions", _O, "compute 2.1-2.104, volume 3.0-3.71; no header means the lowest"),
    Fact("versions-refused", _O, "406 out of range, 400 without sense; the headers echo the wish"),
    Fact("listings-live", _O, "listings and filters show a change at once, on one database"),
    Fact("pages", _O, "a full page names a next one, also when that is empty"),
    Fact("pages-marker", _O, "an unknown marker is 400"),
    Fact("quota-nova", _O, "403 forbidden: Quota exceeded"),
    Fact("quota-cinder", _O, "413 overLimit with Retry-After 0"),
    Fact("quota-neutron", _O, "409 OverQuota"),
    Fact("zero-disk", _O, "403 for an image-backed server of a flavor without disk"),
    Fact("server-states", _O, "BUILD/scheduling, spawning, ACTIVE; powering-off before SHUTOFF"),
    Fact("server-fault", _S, "why a server is in ERROR stands in server.fault"),
    Fact("server-tags-at-once", _O, "a server is found by its tags from its first moment"),
    Fact("server-scheduling", _O, "actions on a server that is being scheduled answer 404"),
    Fact("server-unplug", _S, "a detached port that was made before its server stays, unbound"),
    Fact("server-ports-late", _O, "a port names its server only when the host takes it"),
    Fact("server-ports-first", _O, "a port in use (409) is noticed before a volume in use (400)"),
    Fact("server-boot-order", _O, "attached volumes are listed with the boot volume first"),
    Fact("server-lock", _O, "a locked server refuses power, metadata and delete with 409"),
    Fact("server-lock-tags", _O, "tags of a locked server may be changed"),
    Fact("server-lock-admin", _S, "administrators pass a lock"),
    Fact("server-delete", _O, "204 at once; listed as deleting until it is 404"),
    Fact("server-stop", _O, "asks the guest, cuts the power when it does not answer in time"),
    Fact("console-off", _O, "404 for a server that is off"),
    Fact("console-anew", _O, "each start begins the log anew"),
    Fact("create-image", _O, "of a volume-backed server: 0 bytes, a mapping to a new snapshot"),
    Fact("cell-down", _S, "from 2.69 its servers are id and UNKNOWN only"),
    Fact("cell-down-filters", _A, "a listing with filters leaves its servers out"),
    Fact("host-memory", _A, "a full cloud answers No valid host was found in server.fault"),
    Fact("volume-states", _O, "creating, downloading, available; reserved, attaching, in-use"),
    Fact("volume-metadata", _O, "listings filter by metadata given as an object"),
    Fact("volume-bootable", _O, "an empty volume boots only after os-set_bootable"),
    Fact("volume-delete", _O, "400 while attached or with snapshots"),
    Fact("volume-delete-early", _O, "one that no host has yet goes at once"),
    Fact("volume-image-lost", _O, "error when its image is deleted while it is filled"),
    Fact("volume-image-metadata", _O, "free properties of the image, and handed on by an upload"),
    Fact("volume-qcow2", _O, "made of a qcow2 it holds the disk inside, raw"),
    Fact("upload-in-use", _O, "400 for a volume in use, also with force, unless configured"),
    Fact("upload-failed", _S, "a failed upload leaves the image queued and the volume available"),
    Fact("snapshot-force", _O, "of a volume in use only with force"),
    Fact("snapshot-moment", _A, "the guest's writes stand still while a snapshot is taken"),
    Fact("extend", _O, "grows only; 400 for less"),
    Fact("attachments", _O, "a reserved volume names its server in /attachments at once"),
    Fact("attach-connector", _O, "POST /attachments with a connector needs rights: 403"),
    Fact("image-id", _O, "the client may choose it; 409 when it is taken"),
    Fact("image-id-once", _O, "409 also for the id of an image that was deleted"),
    Fact("image-digest", _O, "sha512 of the bytes, also after a refused upload"),
    Fact("image-inspection", _O, "415 for a qcow2 that is none"),
    Fact("image-unsafe-mbr", _O, "415 for a raw disk with a signed but senseless first sector"),
    Fact("image-any-raw", _O, "any other bytes are taken as raw"),
    Fact("image-range", _O, "206 with Content-Range; 416 past the end"),
    Fact("image-queued-file", _O, "204 for the bytes of a queued image"),
    Fact("import-accepted", _O, "202, then a task; 409 when the image is not queued"),
    Fact("import-filter", _O, "400 for loopback and unlisted ports unless allowed"),
    Fact("import-failed", _O, "queued again, os_glance_failed_import names the store"),
    Fact("image-full", _S, "413 when the store is full"),
    Fact("port-choice", _O, "MAC and fixed address may be chosen; taken ones are 409"),
    Fact("port-policy", _S, "a policy may forbid to choose the MAC: 403"),
    Fact("port-bound", _O, "a bound port may be changed, and is deleted by none but nova: 403"),
    Fact("port-admin-state", _A, "a port that is down carries nothing, at once"),
    Fact("network-in-use", _O, "409 while ports are on it"),
    Fact("image-md5", _N, "the old checksum of images stays null, as where MD5 is switched off"),
    Fact("stop-hard", _N, "a stop without asking the guest: nova has none for projects"),
    Fact("addresses-reached", _N, "routers, floating addresses, security group rules"),
    Fact("backups", _N, "cinder-backup, volume types with several backends, retype, migration"),
    Fact("resize", _N, "resize, rebuild, shelve, rescue, keypairs, server groups"),
    Fact("placement", _N, "placement, barbican, heat, octavia"),
)
