"""What a simulated site is known by, made once and kept in its folder: secrets, keys, ports."""

import ipaddress
import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import asyncssh
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def remembered(folder: Path, make: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What is kept in the folder, or what is made now."""
    file = folder / "identity.json"
    if file.exists():
        return dict(json.loads(file.read_text()))
    made = make()
    keep(folder, made)
    return made


def keep(folder: Path, identity: dict[str, str]) -> None:
    file = folder / "identity.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(identity))


def private_key() -> str:
    """An ssh key in OpenSSH's form."""
    return asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()


def public(private: str) -> str:
    """The line of the public half."""
    return asyncssh.import_private_key(private).export_public_key().decode().strip()


def make_certificate(pem: Path, secret: Path, *, name: str, addresses: tuple[str, ...]) -> None:
    """Make a TLS certificate of its own, for localhost and these addresses, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    names = [
        x509.DNSName("localhost"),
        *(x509.IPAddress(ipaddress.ip_address(each)) for each in addresses),
    ]
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.touch(mode=0o600)
    secret.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


def fingerprint(pem: Path) -> str:
    """SHA-256 of a certificate, in pairs of digits with colons between."""
    digest = sha256(ssl.PEM_cert_to_DER_cert(pem.read_text())).hexdigest().upper()
    return ":".join(digest[at : at + 2] for at in range(0, len(digest), 2))
