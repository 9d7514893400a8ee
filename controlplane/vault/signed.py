"""Small documents in the store that only this control plane can have written."""

import json
from collections.abc import Mapping
from typing import cast

import rfc8785

from controlplane.domain.errors import Integrity
from controlplane.vault.ports import Signer


def sign(field: str, body: Mapping[str, object], signer: Signer) -> bytes:
    """`body` under `field`, the key's id and the signature: canonical JSON (RFC 8785)."""
    key_id = signer.key_id
    signature = signer.sign(_canonical({field: body, "key": key_id}))
    return _canonical({field: body, "key": key_id, "signature": signature.hex()})


def read(field: str, document: bytes, signer: Signer, *, what: str) -> dict[str, object]:
    """The body, or Integrity when any byte of the document is not as it was signed."""
    damaged = f"{what} does not check: the store or its copy was changed"
    try:
        outer = json.loads(document)
        body, key_id = outer[field], outer["key"]
        signature = bytes.fromhex(outer["signature"])
        whole = _canonical(outer) == document and set(outer) == {field, "key", "signature"}
        signed = _canonical({field: body, "key": key_id})
        if whole and isinstance(body, dict) and signer.verify(signed, signature, key_id):
            return cast("dict[str, object]", body)
    except (ValueError, KeyError, TypeError, RecursionError, rfc8785.CanonicalizationError) as e:
        raise Integrity(damaged) from e
    raise Integrity(damaged)


def _canonical(value: object) -> bytes:
    return rfc8785.dumps(value)  # type: ignore[arg-type]  # plain JSON values only
