"""What this simulator models of XCP-ng, where each fact comes from, and what it leaves out."""

from drivers.simulators.provenance import Fact, Provenance

_O, _S, _D, _A, _N = Provenance

FACTS = (
    Fact("envelope", _D, "Status Success with Value, or Failure with ErrorDescription"),
    Fact("integers", _D, "integers travel as decimal text; void is empty text"),
    Fact("malformed", _D, "a malformed call answers HTTP 500 with HTML"),
    Fact("unknown-method", _S, "MESSAGE_METHOD_UNKNOWN; MESSAGE_PARAMETER_COUNT_MISMATCH"),
    Fact(
        "slave", _D, "a member answers the login with HOST_IS_SLAVE and the coordinator's address"
    ),
    Fact("password", _D, "a wrong password waits, then SESSION_AUTHENTICATION_FAILED"),
    Fact("sessions", _D, "sessions idle out after a day; a dead one is SESSION_INVALID"),
    Fact("event-session", _D, "a session that dies inside event.from raises there"),
    Fact(
        "events", _D, "event.from coalesces; an empty token asks for everything; no snapshot on del"
    ),
    Fact("async", _D, "Async.X answers a task; its result is an XML fragment"),
    Fact("tasks-end", _D, "finished tasks go after 65 minutes or beyond 200 of them"),
    Fact("task-cancel", _A, "a cancelled or unknown task takes no import, and its export is cut"),
    Fact("matrix", _D, "blocked, power state, concurrency, template, snapshot, in that order"),
    Fact("vm-create", _S, "VM.create takes a whole record"),
    Fact("other-config", _D, "add_to of a key that is there: MAP_DUPLICATE_KEY"),
    Fact("snapshot-config", _A, "snapshots and clones carry the source's other_config"),
    Fact("snapshot-template", _D, "a snapshot of a VM is a VM that is a template, too"),
    Fact("vdi-step", _D, "sizes are rounded up to 2 MiB; at most 2040 GiB"),
    Fact("vdi-destroy", _A, "VBDs that are not attached go with their VDI"),
    Fact("vdi-copy", _S, "VDI.copy into a VDI that is there; VDI_TOO_SMALL"),
    Fact("vdi-in-use", _D, "one writer: a VM that runs, an import, a copy; else VDI_IN_USE"),
    Fact("import-early", _D, "import_raw_vdi answers 200 before the body is read"),
    Fact("import-length", _D, "it needs a Content-Length; HTTP chunking answers 404"),
    Fact("import-chunked", _D, "chunked=true: u64 offset, u32 length, data; ended by zeros"),
    Fact("export-lengthless", _D, "export_raw_vdi has no length and ends with its connection"),
    Fact("export-truth", _D, "a failed export is cut short; the task tells, not the status"),
    Fact("nbd", _D, "read-only, /UUID?session_id=, at most 16 connections"),
    Fact(
        "nbd-purpose", _D, "STARTTLS where a network's purpose is nbd; none where nothing has one"
    ),
    Fact("nbd-options", _A, "EXPORT_NAME, LIST, STARTTLS and ABORT; no GO, no structured replies"),
    Fact("nbd-holds", _A, "a disk that is read by NBD cannot be written, started or destroyed"),
    Fact("nbd-revoked", _A, "readers of a session that ended are cut"),
    Fact(
        "vif-locking", _S, "locking_mode disabled lets nothing through; it may change while running"
    ),
    Fact("guest-metrics", _D, "guest_metrics is NULL until the guest's agent speaks"),
    Fact("clean-shutdown", _D, "without a guest that hears it: VM_LACKS_FEATURE"),
    Fact("cd", _N, "CD drives, ISO repositories, PV guests"),
    Fact("vhd", _D, "format=vhd: 2 MiB blocks, creator caml, the block table before the blocks"),
    Fact("vhd-base", _D, "with base the blocks that either branch allocated since"),
    Fact("vhd-bytes", _A, "the simulator sends blocks that differ from the base's"),
    Fact("cbt", _D, "changed blocks between snapshots: 64 KiB a bit, MSB first, base64"),
    Fact("cbt-log", _D, "tracking that was off and on again begins a new log: failure 460 across"),
    Fact("cbt-off", _A, "of disks that were not tracked: SR_BACKEND_FAILURE_460"),
    Fact("cbt-metadata", _D, "data_destroy leaves cbt_metadata: no export, no NBD"),
    Fact(
        "cbt-bytes",
        _A,
        "the simulator tells blocks that differ, a real log those that were written",
    ),
    Fact("redirect", _D, "302 for an export of a disk on another host's storage"),
    Fact("suspend", _N, "suspend, resume, migrate, checkpoint, revert, export of a VM"),
    Fact("provision-disks", _N, "disks that a template's other_config asks for"),
)
