"""What this simulator models of Proxmox VE, where each fact comes from, and what it leaves out."""

from dataclasses import dataclass
from enum import StrEnum


class Provenance(StrEnum):
    OBSERVED = "observed"  # seen on a real daemon
    SCHEMA = "schema"  # in the provider's published API schema
    DOCS = "docs"  # in the provider's documentation
    ASSUMED = "assumed"  # nobody looked yet
    ABSENT = "not modelled"


@dataclass(frozen=True, slots=True)
class Fact:
    id: str
    provenance: Provenance
    text: str


_O, _S, _D, _A, _N = Provenance

FACTS = (
    Fact("auth-ticket", _O, "a ticket as cookie, a CSRF header on all but GET, 401 without it"),
    Fact("auth-ticket-renewal", _O, "a valid ticket does as password"),
    Fact("auth-failure-slow", _O, "a failed login answers late (3 s; here the profile's time)"),
    Fact("auth-token", _O, "API token header, no CSRF; token ids have 2 characters or more"),
    Fact("auth-privsep", _O, "a separated token has what it and its user share"),
    Fact("auth-empty-list", _O, "without rights lists answer 200 and are empty, reads answer 403"),
    Fact("auth-root-token", _O, "a token of root is not root for root-only options"),
    Fact("error-reason", _O, "the message is in the reason phrase; errors{} on 400"),
    Fact("error-501", _O, "an unknown path answers 501"),
    Fact("error-flock", _O, "a held VM lock: 500 after a wait, can't lock file ... got timeout"),
    Fact("error-digest", _O, "another digest: 500 checksum mismatch"),
    Fact("error-no-vm", _O, "a missing VM: 500 Configuration file ... does not exist"),
    Fact("error-locked-sync", _O, "PUT config of a locked VM: synchronous 500 VM is locked"),
    Fact("error-locked-task", _O, "start, delete, snapshot of a locked VM: 200, the task fails"),
    Fact("error-upid", _O, "an unknown UPID: 400 with errors.upid"),
    Fact("error-595", _D, "a dead peer node answers 595"),
    Fact("strict-types", _O, "booleans are 1 and 0 only; undefined parameters are refused"),
    Fact("task-upid", _O, "UPID:node:pid:pstart:starttime:type:id:user:"),
    Fact("task-warnings", _O, "exit status WARNINGS: n is a success"),
    Fact("task-log-page", _O, "a log page has 50 lines by default"),
    Fact("task-abort", _O, "DELETE interrupts a task: interrupted by signal"),
    Fact("task-user", _A, "a task's user is the token with its id"),
    Fact("create-lock", _A, "while qmcreate runs the VM shows only lock: create, no tags"),
    Fact("create-taken", _O, "a taken vmid: 500 unable to create VM n: VM n already exists"),
    Fact("create-undone", _A, "a failed qmcreate leaves no VM and no volume"),
    Fact("import-from", _O, "import-from wants size 0 and converts qcow2 and raw, bytes included"),
    Fact("import-extensions", _O, ".ova .qcow2 .raw .vmdk are taken, .img is refused"),
    Fact("import-path-root", _D, "an absolute import path is root's alone"),
    Fact("download-url", _O, "the node pulls; a wrong checksum fails the task"),
    Fact("download-checksum-pair", _S, "checksum and checksum-algorithm need each other"),
    Fact("download-verify", _S, "verify-certificates is on unless 0"),
    Fact("download-task-id", _A, "a download task's id is the file name; parts are not listed"),
    Fact("upload-order", _O, "content, checksum-algorithm, checksum, file; else a reset"),
    Fact("upload-task", _O, "an upload's task is imgcopy"),
    Fact("cloudinit-drive", _O, "STORE:cloudinit makes a CD-ROM; cipassword reads back masked"),
    Fact("tags", _O, "lower-cased, sorted, joined with a semicolon"),
    Fact("description", _S, "at most 8192 characters"),
    Fact("nextid", _O, "a string; nothing is reserved by asking"),
    Fact("snapshot-name", _S, "2 to 40 characters, begins with a letter"),
    Fact("snapshot-raw-dir", _O, "a raw disk on a directory has no snapshots"),
    Fact("delete-running", _O, "deleting a running VM: synchronous 500"),
    Fact("stop-stopped", _O, "stopping a stopped VM is OK"),
    Fact("config-sync", _O, "PUT config is synchronous, POST config is a task"),
    Fact("pending", _O, "on a running VM memory and cpu changes wait in /pending"),
    Fact("detach-unused", _O, "a detached disk becomes unusedN; deleting that frees it"),
    Fact("resize-task", _O, "resize is a task; shrinking fails inside it"),
    Fact("resources-lag", _O, "cluster/resources shows changes late; node lists are live"),
    Fact("zfs-megabyte", _A, "ZFS volumes are rounded up to 1 MiB"),
    Fact("size-text", _O, "sizes in a config are in the largest unit without a rest"),
    Fact("lock-root", _O, "qm set --lock and qm unlock by root over ssh set and clear a lock"),
    Fact("qemu-nbd-writers", _O, "a second writer is refused on qcow2 and let in on raw"),
    Fact("qemu-nbd-beside-vm", _A, "no writer beside a running VM, no start beside a writer"),
    Fact("qemu-nbd-list", _O, "pgrep -a -x qemu-nbd shows export name and description as given"),
    Fact("qemu-nbd-snapshot", _D, "ZFS snapshots at @name after snapdev=visible; qcow2 by option"),
    Fact("busy-dataset", _A, "a volume that qemu-nbd serves is not removed"),
    Fact("nbd-die-with-node", _A, "exports end when the node stops"),
    Fact("qmp-socket", _O, "root reaches a running VM's monitor at /run/qemu-server/N.qmp"),
    Fact("transient-timer", _A, "systemd-run --on-active runs one command later; stop ends it"),
    Fact("qm-resume", _A, "qm resume lets a paused VM go on, unless its configuration is locked"),
    Fact("bitmap-round", _O, "one transaction freezes a bitmap and begins the next"),
    Fact("bitmap-enabled", _O, "an enabled bitmap refuses a read-only export"),
    Fact("bitmap-lost", _O, "bitmaps are gone when the VM's process is"),
    Fact("bitmap-context", _O, "qemu:dirty-bitmap:NAME tells what is dirty, in 64 KiB"),
    Fact("fleecing", _D, "a backup without sync keeps what is overwritten in a node over the disk"),
    Fact("node-name", _D, "a node's name has 31 characters at most"),
    Fact("query-block-qdev", _A, "query-block tells a disk's slot as qdev"),
    Fact("job-cancel", _A, "a cancelled backup job is gone at the next question"),
    Fact("no-console", _D, "the API has no console log"),
    Fact("guest-links", _A, "link_down acts on a running guest at once"),
    Fact("agent-ping", _O, "500 while the guest agent is not configured or not running"),
    Fact("agent-freeze", _S, "qm guest cmd has fsfreeze-freeze, -status and -thaw"),
    Fact("agent-paused", _A, "the agent of a paused VM does not answer"),
    Fact("qcow2-inside", _N, "guest qcow2 files are kept raw inside; tools show the same bytes"),
    Fact("tunnel", _N, "remote_migrate and its mtunnel byte streams"),
    Fact("clone-and-move", _N, "clone, move_disk, migrate, vzdump, pools, SDN, firewall"),
    Fact("more-nodes", _N, "a second live node; dead peers can be shown"),
)
