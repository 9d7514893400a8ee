"""Objects of a simulated oned as the XML that its info calls answer."""

from drivers.simulators.opennebula import oned as one
from drivers.simulators.opennebula.oned import Image, Network, Oned, User, Vm
from drivers.simulators.opennebula.template import element, plain, rendered

_PERMISSIONS = "".join(
    f"<{who}_{what}>{int(who == 'OWNER' and what != 'A')}</{who}_{what}>"
    for who in ("OWNER", "GROUP", "OTHER")
    for what in ("U", "M", "A")
)


def _head(site: Oned, ident: int, uid: int, name: str) -> str:
    owner = site.users[uid].name if uid in site.users else "oneadmin"
    return (
        f"<ID>{ident}</ID><UID>{uid}</UID><GID>1</GID>{plain('UNAME', owner)}"
        f"<GNAME>users</GNAME>{plain('NAME', name)}"
    )


def image(site: Oned, it: Image) -> str:
    vms = "".join(f"<ID>{vm}</ID>" for vm in it.vms)
    return (
        f"<IMAGE>{_head(site, it.id, it.uid, it.name)}"
        f"<PERMISSIONS>{_PERMISSIONS}</PERMISSIONS>"
        f"<TYPE>{it.type}</TYPE><DISK_TYPE>0</DISK_TYPE>"
        f"<PERSISTENT>{int(it.persistent)}</PERSISTENT><REGTIME>{it.regtime}</REGTIME>"
        f"<MODTIME>0</MODTIME>{element('SOURCE', it.source)}{element('PATH', it.path)}"
        f"{element('FORMAT', it.format)}<FS/><SIZE>{it.size}</SIZE><STATE>{it.state}</STATE>"
        f"<PREV_STATE>{it.state}</PREV_STATE><RUNNING_VMS>{len(it.vms)}</RUNNING_VMS>"
        f"<CLONING_OPS>{it.clones}</CLONING_OPS><CLONING_ID>-1</CLONING_ID><TARGET_SNAPSHOT>-1"
        f"</TARGET_SNAPSHOT><DATASTORE_ID>{it.datastore}</DATASTORE_ID><DATASTORE>default"
        f"</DATASTORE><VMS>{vms}</VMS><CLONES/><APP_CLONES/>{rendered('TEMPLATE', it.template)}"
        f"<SNAPSHOTS/>{rendered('BACKUP_INCREMENTS', {'INCREMENT': [*it.increments]})}"
        "<BACKUP_DISK_IDS/></IMAGE>"
    )


def vm(site: Oned, it: Vm, *, extended: bool = True) -> str:
    """A VM; the short body of `vmpool.info` has no more than the scheduler's attributes."""
    lock = ""
    if it.lock:
        lock = (
            f"<LOCK><LOCKED>{it.lock}</LOCKED><OWNER>{it.lock_owner}</OWNER><TIME>{it.stime}"
            "</TIME><REQ_ID>0</REQ_ID></LOCK>"
        )
    history = ""
    if it.deployed:
        history = (
            f"<HISTORY><OID>{it.id}</OID><SEQ>0</SEQ>{plain('HOSTNAME', site.name)}<HID>0</HID>"
            f"<CID>0</CID><DS_ID>{one.SYSTEM_DS}</DS_ID></HISTORY>"
        )
    body = f"<VM>{_head(site, it.id, it.uid, it.name)}"
    if extended:
        body += f"<PERMISSIONS>{_PERMISSIONS}</PERMISSIONS>"
    body += f"<LAST_POLL>0</LAST_POLL><STATE>{it.state}</STATE><LCM_STATE>{it.lcm}</LCM_STATE>"
    if extended:
        body += f"<PREV_STATE>{it.state}</PREV_STATE><PREV_LCM_STATE>{it.lcm}</PREV_LCM_STATE>"
    body += (
        f"<RESCHED>0</RESCHED><STIME>{it.stime}</STIME><ETIME>{it.etime}</ETIME><DEPLOY_ID/>{lock}"
    )
    if not extended:
        short = {k: v for k, v in it.template.items() if k in {"CPU", "MEMORY", "VCPU"}}
        return f"{body}{rendered('TEMPLATE', short)}</VM>"
    ids = "".join(f"<ID>{each}</ID>" for each in it.backups)
    last = it.backups[-1] if it.backups else -1
    planned = "".join(f"<ID>{n}</ID>" for n in range(len(it.template.get("SCHED_ACTION", ()))))
    config = element("MODE", it.backup_mode) + element("LAST_BACKUP_ID", str(last))
    config += element("INCREMENTAL_BACKUP_ID", str(it.chain))
    config += element("LAST_INCREMENT_ID", str(it.last_increment))
    backups = (
        f"<BACKUPS><BACKUP_CONFIG>{config}</BACKUP_CONFIG><BACKUP_IDS>{ids}</BACKUP_IDS></BACKUPS>"
    )
    return (
        f"{body}<MONITORING/><SCHED_ACTIONS>{planned}</SCHED_ACTIONS>"
        f"{rendered('TEMPLATE', it.template)}"
        f"{rendered('USER_TEMPLATE', it.user_template)}"
        f"<HISTORY_RECORDS>{history}</HISTORY_RECORDS><SNAPSHOTS/>{backups}</VM>"
    )


def network(site: Oned, it: Network) -> str:
    ranges = ""
    for number, each in enumerate(it.ranges):
        inner = element("AR_ID", str(number))
        inner += "".join(element(key, value) for key, value in each.items())
        ranges += f"<AR>{inner}<USED_LEASES>0</USED_LEASES><LEASES/></AR>"
    return (
        f"<VNET>{_head(site, it.id, it.uid, it.name)}<PERMISSIONS>{_PERMISSIONS}</PERMISSIONS>"
        f"<CLUSTERS><ID>0</ID></CLUSTERS>{element('BRIDGE', f'onebr{it.id}')}<STATE>1</STATE>"
        f"<PREV_STATE>1</PREV_STATE><PARENT_NETWORK_ID/><VN_MAD>bridge</VN_MAD>"
        f"<USED_LEASES>{len(it.leases)}</USED_LEASES><VROUTERS/><UPDATED_VMS/><OUTDATED_VMS/>"
        f"<UPDATING_VMS/><ERROR_VMS/>{rendered('TEMPLATE', it.template)}"
        f"<AR_POOL>{ranges}</AR_POOL></VNET>"
    )


def datastores(site: Oned) -> str:
    rows = (
        (one.SYSTEM_DS, "system", 1),
        (one.IMAGE_DS, "default", 0),
        (one.FILES_DS, "files", 2),
        (one.BACKUP_DS, "backups", 3),
    )
    out = ""
    for number, name, kind in reversed(rows):
        ids = "".join(
            f"<ID>{each.id}</ID>" for each in site.images.values() if each.datastore == number
        )
        free, total = site.free_mib, site.datastore_mib
        out += (
            f"<DATASTORE><ID>{number}</ID><UID>0</UID><GID>0</GID><UNAME>oneadmin</UNAME>"
            f"<GNAME>oneadmin</GNAME><NAME>{name}</NAME><PERMISSIONS>{_PERMISSIONS}</PERMISSIONS>"
            f"{element('DS_MAD', 'rsync' if kind == 3 else 'fs')}{element('TM_MAD', site.tm)}"
            f"<BASE_PATH><![CDATA[{one.DATASTORES}/{number}]]></BASE_PATH><TYPE>{kind}</TYPE>"
            f"<DISK_TYPE>0</DISK_TYPE><STATE>0</STATE><CLUSTERS><ID>0</ID></CLUSTERS>"
            f"<TOTAL_MB>{total}</TOTAL_MB><FREE_MB>{free}</FREE_MB><USED_MB>{total - free}"
            f"</USED_MB><IMAGES>{ids}</IMAGES><TEMPLATE/></DATASTORE>"
        )
    return f"<DATASTORE_POOL>{out}</DATASTORE_POOL>"


def user(site: Oned, it: User) -> str:
    """A user with its quotas; used figures are counted, a limit that was not set is -1."""
    used = vm_use(site, it.id)
    vm_quota = "".join(
        f"<{key}><![CDATA[{it.vm_quota.get(key, -1)}]]></{key}>"
        f"<{key}_USED><![CDATA[{used[key]}]]></{key}_USED>"
        for key in ("CPU", "MEMORY", "VMS")
    )
    held = datastore_use(site, it.id)
    store = "".join(
        f"<{key}><![CDATA[{it.datastore_quota.get(key, -1)}]]></{key}>"
        f"<{key}_USED><![CDATA[{held[key]}]]></{key}_USED>"
        for key in ("IMAGES", "SIZE")
    )
    return (
        f"<USER><ID>{it.id}</ID><GID>1</GID><GROUPS><ID>1</ID></GROUPS><GNAME>users</GNAME>"
        f"{plain('NAME', it.name)}<PASSWORD>hidden</PASSWORD><AUTH_DRIVER>core</AUTH_DRIVER>"
        "<ENABLED>1</ENABLED><TEMPLATE/>"
        f"<DATASTORE_QUOTA><DATASTORE><ID><![CDATA[{one.IMAGE_DS}]]></ID>{store}</DATASTORE>"
        f"</DATASTORE_QUOTA><NETWORK_QUOTA/><VM_QUOTA><VM>{vm_quota}</VM></VM_QUOTA>"
        "<IMAGE_QUOTA/><DEFAULT_USER_QUOTAS><DATASTORE_QUOTA/><NETWORK_QUOTA/><VM_QUOTA/>"
        "<IMAGE_QUOTA/></DEFAULT_USER_QUOTAS></USER>"
    )


def vm_use(site: Oned, uid: int) -> dict[str, int]:
    mine = [each for each in site.vms.values() if each.uid == uid and each.state != one.DONE]
    return {
        "VMS": len(mine),
        "CPU": sum(int(float(_number(each, "CPU"))) for each in mine),
        "MEMORY": sum(int(_number(each, "MEMORY")) for each in mine),
    }


def _number(it: Vm, key: str) -> str:
    values = [value for value in it.template.get(key, ()) if isinstance(value, str)]
    return values[-1] if values else "0"


def datastore_use(site: Oned, uid: int) -> dict[str, int]:
    mine = [each for each in site.images.values() if each.uid == uid]
    return {"IMAGES": len(mine), "SIZE": sum(each.size for each in mine)}
