"""Plans, refusals and outcomes of moves, in words."""

from api.cli import units
from api.cli.client import Doc
from api.cli.failure import Stopped
from api.cli.session import field
from api.cli.watch import blockers, look_at, name_of
from api.schemas.errors import BLOCKED, OUTCOME_EXIT, ROLLED_BACK
from controlplane.domain.operation import OperationState

_SHORT = 6
_SAID = ("warning", "info")
_BACK = frozenset({OperationState.ROLLED_BACK, OperationState.CANCELLED, OperationState.FAILED})


def plan_text(subject: str, move: Doc) -> str:
    """What is going to be done, before anybody agrees to it."""
    status = move["status"]
    plan = status.get("plan") or {}
    target = plan.get("target", {})
    digest = str(status.get("planDigest", ""))[:_SHORT]
    lines = [f"Move {subject}   {plan.get('source')}  ->  {target.get('site')}   plan {digest}", ""]
    lines += [f"  {name:<9} {text}" for name, text in _parts(plan, target)]
    estimate = status.get("estimate") or plan.get("estimate")
    if estimate:
        lines += ["", f"  estimate  {_estimate(estimate)}"]
    told = [f for f in status.get("findings", []) if f["severity"] in _SAID]
    unseen = sorted({f["id"] for f in status.get("findings", []) if f["severity"] == "unseen"})
    lines += [""] if told or unseen else []
    lines += [finding_line(f) for f in told]
    lines += [f"  unseen    {' '.join(unseen)}  (-o yaml says why)"] if unseen else []
    return "\n".join(lines)


def blocked(subject: str, site: str, move: Doc, request: str = "") -> Stopped:
    """A refusal: every blocker with its evidence and remedy."""
    lines = [""]
    for each in blockers(move["status"]):
        lines.append(finding_line(each).strip())
        if each.get("remedy"):
            lines.append(f"          {each['remedy']}")
    lines += ["", f"fedctl move {subject} --where   says which sites could take it"]
    lines += [f"Nothing was changed.   {request}exit {BLOCKED}"]
    return Stopped(
        f"Not moved: {subject} may not run on {site}.", exit_code=BLOCKED, notes=tuple(lines)
    )


def moved_text(subject: str, move: Doc, operation: Doc, address: str | None) -> str:
    """A move that is done: where the instance is now, what it cost, what is left behind."""
    status = move["status"]
    result = operation["status"].get("result", {})
    site = move["spec"]["target"]["site"]
    source = field(status, "plan", "source") or "its old site"
    where = f", {address}" if address else ""
    lines = [f"Moved {subject}: now on {site}{where}"]
    cost = [f"downtime {units.seconds(status['downtimeSeconds'])}"] if _known(status) else []
    if "bytesSent" in result and "bytesRead" in result:
        sent, read = units.size(result["bytesSent"]), units.size(result["bytesRead"])
        cost.append(f"sent {sent} of {read} read")
    proofs = status.get("proof") or []
    if isinstance(proofs, list) and proofs:
        equal = sum(1 for proof in proofs if proof.get("equal"))
        cost.append(f"proof {equal} of {len(proofs)} disk(s) equal")
    lines.append(f"  {'   '.join(cost)}")
    ends = [r["expiresAt"] for r in status.get("retained", []) if r.get("expiresAt")]
    until = f" until {units.day(min(ends))}" if ends else ""
    lines += [
        f"  the old copy on {source} is stopped and fenced and stays{until}",
        f"  now     fedctl moves finalize {subject}   deletes it",
        f"  return  fedctl move {subject} --to {source}",
    ]
    return "\n".join(lines)


def failed(subject: str, move: Doc, operation: Doc) -> Stopped:
    """A move that did not get there: what is safe now, why, what next."""
    outcome = OperationState(operation["status"]["outcome"])
    exit_code = OUTCOME_EXIT[outcome]
    problem = operation["status"].get("problem") or {}
    step = f' at "{problem["step"]}"' if problem.get("step") else ""
    source = field(move, "status", "plan", "source") or "where it was"
    how = {
        OperationState.ROLLED_BACK: f"failed{step} and was rolled back",
        OperationState.CANCELLED: "was cancelled and rolled back",
        OperationState.FAILED: f"failed{step} before anything was changed",
        OperationState.NEEDS_ATTENTION: f"needs a person{step}",
    }[outcome]
    notes = []
    if outcome in _BACK:
        notes.append(f"{subject} is on {source}, as it was before")
    if problem.get("message"):
        notes.append(f"why     {problem['message']}")
    if problem.get("detail"):
        notes.append(f"quoted  {problem['detail']}")
    notes += look_at(operation["status"])
    notes += [f"kept    {kept_text(kept)}" for kept in move["status"].get("retained", [])]
    if exit_code == ROLLED_BACK:
        notes.append(f"next    fedctl moves retry {subject}, or fedctl moves finalize {subject}")
    notes.append(f"look    fedctl operation show {name_of(operation)}")
    notes.append(f"exit {exit_code}")
    return Stopped(f"Move of {subject} {how}.", exit_code=exit_code, notes=tuple(notes))


def kept_text(kept: Doc) -> str:
    """`volume on par-pve (6.1 GiB)`."""
    count = kept.get("sizeBytes") or kept.get("size") or 0
    size = f" ({units.size(count)})" if count else ""
    return f"{kept['kind']} on {kept['site']}{size}"


def _known(status: Doc) -> bool:
    return status.get("downtimeSeconds") is not None


def _parts(plan: Doc, target: Doc) -> list[tuple[str, str]]:
    size = target.get("size", {})
    parts = []
    if size:
        sku = f" as {target['sku']}" if target.get("sku") else ""
        parts.append(("compute", f"{size['cpus']} vCPU / {units.size(size['memory'])}{sku}"))
    if target.get("firmware"):
        parts.append(("firmware", target["firmware"]))
    passes = plan.get("passes") or {}
    again = bool(target.get("reuse"))
    parts += [
        (f"disk {disk['index']}", _disk(disk, passes, kept=again))
        for disk in target.get("disks", [])
    ]
    parts.append(("copy", _copying(passes)))
    for index, nic in enumerate(target.get("nics", [])):
        kept = ", ".join(str(nic[name]) for name in ("address", "mac") if nic.get(name))
        came = f" (was {nic['source_network']})" if nic.get("source_network") else ""
        network = nic.get("network_name") or nic["network"]
        parts.append((f"nic {index}", f"{network}{came}{f', keeps {kept}' if kept else ''}"))
    for check in plan.get("checks", []):
        pattern = f" and prints {check['pattern']!r}" if check.get("pattern") else ""
        parts.append(("check", f"{check['kind']}{pattern} within {units.seconds(check['within'])}"))
    if plan.get("fence"):
        parts.append(("fence", f"the source, {plan['fence']}"))
    if plan.get("return_path"):
        parts.append(("return", plan["return_path"]))
    return parts


def _disk(disk: Doc, passes: Doc, *, kept: bool) -> str:
    grown = disk["target_size"] - disk["size"]
    longer = f", {units.size(grown)} longer there" if grown else ""
    storage = f" on {disk['storage']}" if disk.get("storage") else ""
    form = f" as {disk['format']}"
    way = "the site fetches it" if disk["delivery"] == "pull" else "we send it"
    if kept:
        way = "the copy kept there is used: only changes are sent"
    elif passes.get("direct"):
        form, way = "", "written straight from the source"
    elif passes.get("beside"):
        form, way = "", "written while it is read for the vault"
    return f"{units.size(disk['size'])}{form}{storage}{longer}; {way}"


def _copying(passes: Doc) -> str:
    if passes.get("direct"):
        return "direct: the source is stopped while its disks go straight over and are proven"
    if not passes.get("warm") and passes.get("beside"):
        return "cold: the source is stopped while its disks are read, written there and proven"
    if not passes.get("warm"):
        return "cold: the source is stopped while its disks are read, sent and proven"
    then = "then what changed" if passes.get("tracked") else "then all of it once more"
    goes = "the target follows" if passes.get("seeded") else "imported at the cutover"
    cutover = passes.get("cutover") or {}
    when = "when you say so" if cutover.get("manual") else "by itself"
    if cutover.get("not_before"):
        when += f" after {cutover['not_before']}"
    if cutover.get("not_after"):
        when += f" until {cutover['not_after']}"
    return f"warm: all of it while it runs, {then}; {goes}; cutover {when}"


def _estimate(estimate: Doc) -> str:
    whole, down = units.seconds(estimate["seconds"]), units.seconds(estimate["downtime_seconds"])
    sent = units.size(estimate["bytes_sent"])
    basis = f"     ({estimate['basis']})" if estimate.get("basis") else ""
    return f"{whole} in all, {down} downtime, {sent} sent{basis}"


def finding_line(finding: Doc) -> str:
    return f"  {finding['severity']:<8}  {finding['id']}  {finding['evidence']}"
