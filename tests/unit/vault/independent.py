"""A reader of the vault's store, written from docs/vault-format.md; it uses nothing of fedctl.

`python tests/unit/vault/independent.py STORE ROOT_ID ROOT_HEX POINT DISK OUT` restores a disk.
"""

import hashlib
import hmac
import json
import sys
from base64 import b64decode
from pathlib import Path
from struct import unpack
from uuid import UUID

import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BLOCK, FANOUT = 65536, 512
SUBKEY = "fedctl 2026-11 vault: subkey of one pack or object"
DISK = "fedctl 2026-11 disk digest: "


class Broken(Exception):
    """Something in the store is not as the page says."""


def need(holds: object, what: str) -> None:
    if not holds:
        raise Broken(what)


def tree(data: bytes) -> bytes:
    """The content digest."""
    level = [
        blake3(data[at : at + BLOCK], derive_key_context=DISK + "block").digest()
        for at in range(0, max(len(data), 1), BLOCK)
    ]
    while len(level) > 1:
        pairs = [b"".join(level[at : at + 2]) for at in range(0, len(level), 2)]
        level = [
            pair if len(pair) == 32 else blake3(pair, derive_key_context=DISK + "node").digest()
            for pair in pairs
        ]
    return level[0]


class Store:
    def __init__(self, folder: Path, root_id: UUID, root: bytes) -> None:
        self.folder = folder
        self.root_id, self.root = root_id.bytes, root
        self.keys = [
            json.loads(path.read_bytes()) for path in sorted((folder / "keys").rglob("*"))
            if path.is_file()
        ]  # fmt: skip

    def get(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    # Keys

    def derive(self, label: str) -> bytes:
        # HKDF (RFC 5869) of one block.
        pseudorandom = hmac.digest(self.root_id, self.root, "sha256")
        return hmac.digest(pseudorandom, b"fedctl root 1\x00" + label.encode() + b"\x01", "sha256")

    def tenant_key(self, id: str) -> tuple[dict, bytes]:
        [row] = [row for row in self.keys if row["id"] == id and row["purpose"] == "tenant"]
        named = hashlib.sha256(self.root_id + UUID(id).bytes).digest()[:16]
        opened = envelope(self.derive("wrap"), row, named, UUID(id).bytes, row)
        return row, opened

    def domain_key(self, row: dict) -> bytes:
        named = b64decode(row["wrapped"])[1:17]
        tenant, key = self.tenant_key(str(UUID(bytes=named)))
        bound = b"\x00".join(
            (
                b"key", UUID(row["id"]).bytes, row["purpose"].encode(), row["owner"].encode(),
                str(row["version"]).encode(),
            )
        )  # fmt: skip
        return envelope(key, tenant, named, bound, row)

    def domain_keys(self, domain: str) -> tuple[bytes, dict[str, bytes]]:
        """The id key, and data keys by id."""
        rows = [row for row in self.keys if row["owner"] == domain]
        [id_key] = [row for row in rows if row["purpose"] == "vault-id"]
        data = {row["id"]: self.domain_key(row) for row in rows if row["purpose"] == "vault-data"}
        return self.domain_key(id_key), data

    # Points

    def head(self, point: UUID) -> dict:
        """The signed head of the point; all heads of its instance follow each other."""
        public = Ed25519PrivateKey.from_private_bytes(self.derive("sign/vault-head")).public_key()
        named = hashlib.sha256(public.public_bytes_raw()).hexdigest()[:32]
        for folder in {path.parent for path in (self.folder / "heads").rglob("*/*/*")}:
            previous, found = "", None
            for number, path in enumerate(sorted(folder.iterdir()), start=1):
                document = path.read_bytes()
                outer = json.loads(document)
                signed = canonical({"head": outer["head"], "key": outer["key"]})
                need(outer["key"] == named, f"{path.name} is signed by another key")
                public.verify(bytes.fromhex(outer["signature"]), signed)
                need(canonical(outer) == document, f"{path.name} is not canonical")
                head = outer["head"]
                need(head["sequence"] == number, f"the head before {path.name} is missing")
                need(head["previous"] == previous, f"{path.name} follows another head")
                previous = blake3(document).hexdigest()
                found = head if head["point"] == str(point) else found
            if found:
                return found
        raise Broken(f"no head names {point}")

    def group(self, id: UUID) -> list[UUID]:
        """The points of the group; every one of them has its head here."""
        documents = [json.loads(p.read_bytes()) for p in (self.folder / "heads").rglob("*/*/*")]
        found = [d["head"] for d in documents if d["head"].get("group", {}).get("id") == str(id)]
        points = sorted(UUID(head["point"]) for head in found)
        for head in map(self.head, points):
            need(head["group"]["members"] == len(points), f"group {id} is not whole")
            need(head["group"]["asked"] <= head["group"]["answered"], "a moment ends as it began")
        need(bool(points), f"no head names group {id}")
        return points

    def point(self, point: UUID) -> dict:
        root = self.head(point)["root"]
        name = f"points/{point.hex}/{root}"
        sealed = self.get(name)
        magic = b"fedctl-sealed-1\n"
        need(sealed.startswith(magic), f"{name} is no sealed object")
        end = len(magic) + 1 + sealed[len(magic)]
        key_id = sealed[len(magic) + 1 : end].decode()
        [domain] = [row["owner"] for row in self.keys if row["id"] == key_id]
        id_key, data_keys = self.domain_keys(domain)
        gcm = subkey(data_keys[key_id], sealed[end : end + 32])
        bound = sealed[: end + 32] + name.encode()
        body = gcm.decrypt(bytes(12), sealed[end + 32 :], bound)
        need(blake3(body, key=id_key).hexdigest() == root, f"{name} holds another root")
        found = json.loads(body)
        need(found["point"] == str(point), f"{name} is of another point")
        need(found["domain"] == domain, f"{name} is of another domain")
        return found

    def disk(self, point: UUID, number: int) -> bytes:
        found = self.point(point)
        [disk] = [each for each in found["disks"] if each["disk"] == number]
        size, chunk = disk["size"], disk["chunk"]
        chunks, top = -(-size // chunk), 0
        while FANOUT ** (top + 1) < chunks:
            top += 1
        packs = Packs(self, found["domain"])
        out = bytearray(size)
        below = [(top, 0, disk["top"])] if disk["top"] else []
        while below:
            level, index, (pack, position, identity, digest) = below.pop()
            page = packs.blob(pack, position, identity, 0x10)
            magic, *told, names, count = unpack(">4sBQHH", page[:17])
            need(magic == b"fpg1" and told == [level, index], "another page than it should be")
            at = 17 + 32 * names
            for entry in range(count):
                if page[at : at + 2] == b"\xff\xff":
                    at += 2
                    continue
                name, blob = unpack(">HI", page[at : at + 6])
                ref = (
                    page[17 + 32 * name : 49 + 32 * name].hex(), blob,
                    page[at + 6 : at + 38].hex(), page[at + 38 : at + 70].hex(),
                )  # fmt: skip
                at += 70
                if level:
                    below.append((level - 1, index * FANOUT + entry, ref))
                    continue
                data = packs.blob(*ref[:3], 0)
                need(tree(data).hex() == ref[3], "a chunk has another digest")
                first = (index * FANOUT + entry) * chunk
                out[first : first + len(data)] = data
            need(at == len(page), "a page is longer than its entries")
            span = chunk * FANOUT ** (level + 1)
            need(
                level or tree(bytes(out[index * span : (index + 1) * span])).hex() == digest, "page"
            )
        whole = blake3(
            size.to_bytes(8, "big") + tree(bytes(out)), derive_key_context=DISK + "disk"
        ).hexdigest()
        need(whole == disk["digest"], "the disk has another digest")
        return bytes(out)


class Packs:
    def __init__(self, store: Store, domain: str) -> None:
        self.store, self.domain = store, domain
        self.id_key, self.data_keys = store.domain_keys(domain)
        self.opened: dict[str, tuple[bytes, bytes, AESGCM, list[tuple]]] = {}

    def open(self, pack: str) -> tuple[bytes, bytes, AESGCM, list[tuple]]:
        if pack in self.opened:
            return self.opened[pack]
        raw = self.store.get(f"packs/{pack[:2]}/{pack}")
        start = b"fedctl-pack-1\n" + len(self.domain).to_bytes(2, "big") + self.domain.encode()
        need(raw.startswith(start), "a pack of another domain")
        key = raw[len(start) + 1 : len(start) + 1 + raw[len(start)]].decode()
        header = raw[: len(start) + 1 + len(key) + 32]
        need(header[-32:].hex() == pack, "another pack than its name says")
        footer = raw[-23:]
        offset, length, end = unpack(">QI11s", footer)
        need(end == b"fedctl-end\n" and offset + length + 23 == len(raw), "a pack without its end")
        gcm = subkey(self.data_keys[key], header[-32:])
        table = gcm.decrypt(b"\x01" + bytes(11), raw[offset : offset + length], header + footer)
        blobs, at = [], len(header)
        for row in range(0, len(table), 41):
            blobs.append((at, *unpack(">32sBII", table[row : row + 41])))
            at += blobs[-1][-1]
        need(at == offset, "a pack's table does not fit")
        self.opened[pack] = (raw, header, gcm, blobs)
        return self.opened[pack]

    def blob(self, pack: str, number: int, wanted: str, kind: int) -> bytes:
        raw, header, gcm, blobs = self.open(pack)
        at, identity, codec, plain, stored = blobs[number]
        need(identity.hex() == wanted, "another blob than the one referred to")
        need(codec & 0x10 == kind, "a page where a chunk belongs, or the other way round")
        bound = header + number.to_bytes(4, "big") + identity + bytes([codec])
        bound += plain.to_bytes(4, "big") + stored.to_bytes(4, "big")
        body = gcm.decrypt(number.to_bytes(12, "big"), raw[at : at + stored], bound)
        if codec & 0x0F:
            body = zstandard.ZstdDecompressor().decompress(body, max_output_size=plain)
        of = bytes([kind]) + plain.to_bytes(4, "big") + tree(body)
        need(len(body) == plain, "a blob of another length")
        need(blake3(of, key=self.id_key).digest() == identity, "a blob with another id")
        return body


def subkey(data_key: bytes, salt: bytes) -> AESGCM:
    return AESGCM(blake3(data_key + salt, derive_key_context=SUBKEY).digest())


def envelope(key: bytes, name: dict, id: bytes, bound: bytes, row: dict) -> bytes:
    """The plain bytes of the wrapped key `row`; `name` and `id` are of the key it opens with."""
    sealed = b64decode(row["wrapped"])
    need(sealed[0] == 1 and sealed[1:17] == id, "an envelope of another key")
    parts = (
        b"fedctl envelope 1", name["purpose"].encode(), name["owner"].encode(), id,
        str(name["version"]).encode(), bound,
    )  # fmt: skip
    told = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return AESGCM(key).decrypt(sealed[17:29], sealed[29:], told)


def canonical(value: object) -> bytes:
    # RFC 8785 of what occurs here: text, whole numbers, lists, objects.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def main() -> None:
    store, root_id, root, point, disk, out = sys.argv[1:]
    opened = Store(Path(store), UUID(root_id), bytes.fromhex(root))
    Path(out).write_bytes(opened.disk(UUID(point), int(disk)))


if __name__ == "__main__":
    main()
