"""The S3 store against a real server, and behind a line on which everything goes wrong.

The server is a process that takes two seconds to start; uploads in parts take about half of one.
"""

import ssl
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from controlplane.domain.errors import (
    Conflict,
    Denied,
    Exhausted,
    Integrity,
    NotFound,
    Unavailable,
    Unsupported,
)
from controlplane.vault import s3
from controlplane.vault.s3 import PART, S3Key, S3Objects, retries
from tests.e2e.system import until
from tests.unit.vault.faulty import (
    BROKEN,
    CUT_AFTER,
    CUT_BEFORE,
    CUT_IN_ANSWER,
    CUT_IN_REQUEST,
    SILENCE,
    SLOW_DOWN,
    Answer,
    Way,
)
from tests.unit.vault.objects_contract import MANY_PARTS, ObjectsContract, sent
from tests.unit.vault.s3server import KEY, place


class TestS3Objects(ObjectsContract):
    @pytest.fixture
    def objects(self, server, opened):
        return opened(server)


@pytest.fixture
def behind(way, opened):
    """It has proven its conditions, so what goes wrong meets what the test asks for."""
    objects = opened(way.url)
    objects.put("first/x", b"x")
    way.asked.clear()
    return objects


PASSING = [SLOW_DOWN, BROKEN, CUT_BEFORE, CUT_AFTER, CUT_IN_REQUEST, CUT_IN_ANSWER]


@pytest.mark.parametrize("fault", PASSING, ids=str)
class TestWhatPasses:
    """Each fault twice in a row, and then it works: nobody above hears of it."""

    def test_a_small_object_is_put(self, way, behind, fault):
        way.fail(2, fault, "PUT")
        behind.put("heads/a", b"a head")
        assert behind.get("heads/a") == b"a head"
        with pytest.raises(Conflict):
            behind.put("heads/a", b"another")

    def test_an_object_is_read(self, way, behind, fault):
        behind.put("heads/a", b"a head" * 20_000)
        for ask, right in (
            (lambda: behind.get("heads/a"), b"a head" * 20_000),
            (lambda: behind.get("heads/a", 6, 60_000), b"a head" * 10_000),
            (lambda: behind.size("heads/a"), 120_000),
            (lambda: list(behind.names("heads")), ["heads/a"]),
        ):
            way.fail(2, fault)
            assert ask() == right

    def test_a_long_object_is_put(self, way, behind, fault):
        data = bytes(range(250)) * (MANY_PARTS // 250)
        way.fail(2, fault, "PUT")
        sent(behind, "packs/a", data)
        assert behind.get("packs/a") == data

    def test_an_object_is_deleted(self, way, behind, fault):
        behind.put("heads/a", b"a head")
        way.fail(2, fault, "DELETE")
        behind.delete("heads/a")
        assert list(behind.names("heads")) == []


@pytest.mark.parametrize("fault", [CUT_AFTER, BROKEN], ids=str)
def test_the_end_of_a_long_upload_is_looked_up_when_its_answer_is_lost(way, bucket, behind, fault):
    upload = behind.upload("packs/a")
    upload.write(bytes(MANY_PARTS))
    way.fault = lambda asked: fault if asked.method == "POST" and "uploadId" in asked.path else None
    if fault is CUT_AFTER:
        upload.finish()
        assert behind.size("packs/a") == MANY_PARTS
    else:
        with pytest.raises(Unavailable, match=f"packs/a in bucket {bucket} at http://"):
            upload.finish()
        upload.abort()
        assert list(behind.names("packs")) == []


def test_a_store_that_is_away_for_a_while_is_waited_for(way, behind):
    """It takes as long as the store is away, 0.4 s."""
    behind.put("heads/a", b"a head")
    way.close()
    back = threading.Timer(0.4, way.open)
    back.start()
    assert behind.get("heads/a") == b"a head"
    back.join()
    way.close()
    again = threading.Timer(0.4, way.open)
    again.start()
    behind.put("heads/b", b"another")
    again.join()
    assert behind.get("heads/b") == b"another"


@pytest.mark.parametrize("seconds", [0.1, 2, 60, 3600])
def test_patience_ends_what_is_tried_again_and_no_count_of_tries(seconds):
    """Even if each pause is the shortest that the library may draw; twelve tries took 3 seconds."""
    given = retries(timedelta(seconds=seconds))
    assert given["max_retries"] * given["backoff"]["init_backoff"] >= given["retry_timeout"]
    assert given["backoff"]["max_backoff"] < given["retry_timeout"]


@pytest.mark.parametrize("fault", [SILENCE, BROKEN, SLOW_DOWN, CUT_BEFORE, "no listener"], ids=str)
def test_a_store_that_stays_away_ends_in_unavailable_and_nothing_is_there(
    way, bucket, opened, fault
):
    """With little patience; each of seven calls takes all of it, and silence a timeout more."""
    short = {"timeout": timedelta(seconds=0.15), "patience": timedelta(seconds=0.1)}
    objects = opened(way.url, **short)
    upload = objects.upload("packs/a")
    if fault == "no listener":
        way.close()
    way.fault = lambda _: fault

    def long_upload() -> None:
        upload.write(bytes(MANY_PARTS))
        upload.finish()

    for ask in (
        lambda: objects.put("heads/a", b"x"),
        lambda: objects.get("heads/a"),
        lambda: objects.size("heads/a"),
        lambda: list(objects.names("heads")),
        lambda: objects.delete("heads/a"),
        lambda: objects.sweep(datetime.now(UTC)),
        long_upload,
    ):
        with pytest.raises(Unavailable, match=f"bucket.*{bucket}|in http.*{bucket}") as caught:
            ask()
        assert KEY.secret not in str(caught.value)
    upload.abort()
    way.fault = lambda _: None
    if fault == "no listener":
        way.open()
    there = opened(way.server)
    assert [*there.names("heads"), *there.names("packs")] == []


def test_an_upload_that_failed_asks_nothing_more_of_the_store_when_it_is_to_end(way, opened):
    objects = opened(way.url, patience=timedelta(seconds=0.1))
    objects.put("first/x", b"x")
    upload = objects.upload("packs/a")
    way.fault = lambda _: BROKEN

    def send() -> None:
        for _ in range(9):
            upload.write(bytes(PART))

    with pytest.raises(Unavailable):
        send()
    way.asked.clear()
    with pytest.raises(Unavailable, match="packs/a in bucket"):
        upload.finish()
    assert way.asked == []


def test_nobody_waits_for_a_store_that_is_away_to_hear_of_an_abort(way, opened, monkeypatch):
    """With an hour's patience; the store hears of it when it is back, though nobody waited."""
    monkeypatch.setattr(s3, "_ABORTING", 0.2)
    upload = opened(way.url, patience=timedelta(hours=1)).upload("packs/a")
    upload.write(bytes(MANY_PARTS))
    until(lambda: any("partNumber" in asked.path for asked in way.asked), "a part is sent")
    way.fault = lambda _: BROKEN
    upload.abort()
    with pytest.raises(Conflict):
        upload.write(b"x")
    way.asked.clear()
    way.fault = lambda _: None
    until(lambda: any(asked.method == "DELETE" for asked in way.asked), "the store was told")
    there = opened(way.server)
    until(lambda: there.sweep(datetime.now(UTC) + timedelta(hours=1)) == 0, "no part is left")
    assert list(there.names("packs")) == []


def test_an_answer_that_is_cut_for_good_is_never_taken_for_the_object(way, opened):
    objects = opened(way.url, patience=timedelta(seconds=0.3))
    objects.put("heads/a", b"a head" * 1000)
    way.fault = lambda asked: CUT_IN_ANSWER if asked.method == "GET" else None
    with pytest.raises(Unavailable):
        objects.get("heads/a")


@pytest.mark.parametrize(
    ("answer", "error", "word"),
    [
        (Answer(507, "InsufficientStorage"), Exhausted, "free some room"),
        (Answer(403, "QuotaExceeded"), Exhausted, "free some room"),
        (Answer(403, "AccessDenied"), Denied, "check the key"),
        (Answer(403, "RequestTimeTooSkewed"), Denied, "clock"),
        (Answer(400, "ExpiredToken"), Denied, "check the key"),
        (Answer(400, "AuthorizationHeaderMalformed"), Denied, "region"),
        (Answer(400, "BadDigest"), Integrity, "did not arrive as it was sent"),
        (Answer(501, "NotImplemented"), Unsupported, "If-None-Match"),
    ],
)
def test_what_the_server_says_is_told_in_our_words(way, opened, answer, error, word):
    objects = opened(way.url, patience=timedelta(seconds=0.1))
    way.fault = lambda asked: answer if asked.method != "HEAD" else None
    upload = objects.upload("packs/a")
    for ask in (
        lambda: objects.put("heads/a", b"x"),
        lambda: (upload.write(bytes(MANY_PARTS)), upload.finish()),
    ):
        with pytest.raises(error, match=word) as caught:
            ask()
        assert str(caught.value).startswith(("heads/a in bucket ", "packs/a in bucket "))
        assert KEY.secret not in str(caught.value)
    upload.abort()


def test_a_bucket_that_is_gone_is_not_an_empty_store(server):
    objects = S3Objects(place(server, "no-such-bucket"))
    for ask in (
        lambda: objects.get("heads/a"),
        lambda: objects.size("heads/a"),
        lambda: objects.delete("heads/a"),
        lambda: list(objects.names("heads")),
        lambda: objects.put("heads/a", b"x"),
        lambda: objects.sweep(datetime.now(UTC)),
        lambda: sent(objects, "packs/a", bytes(MANY_PARTS)),
    ):
        with pytest.raises(Unavailable, match="no bucket 'no-such-bucket'"):
            ask()


def test_every_upload_carries_its_checksum(way, behind):
    behind.put("heads/a", b"a head")
    sent(behind, "packs/a", bytes(MANY_PARTS))
    bodies = [asked for asked in way.asked if asked.method == "PUT"]
    assert len(bodies) == 4
    assert all(asked.checksum_is_right and asked.signed_as_sent for asked in bodies)
    assert [a.headers.get("if-none-match") for a in bodies] == ["*", None, None, None]


def test_a_store_that_ignores_conditions_is_refused_before_anything_is_written(way, opened):
    there = opened(way.server)
    there.put("incarnations/000002", b"another's")
    way.fault = lambda asked: asked.headers.pop("if-none-match", None) and None
    objects = opened(way.url)
    for name, length in (("incarnations/000002", 1), ("packs/a", MANY_PARTS)):
        with pytest.raises(Unsupported, match=f"{name} in bucket .* ignores If-None-Match"):
            sent(objects, name, bytes(length))
    assert there.get("incarnations/000002") == b"another's"
    assert list(there.names("packs")) == []


def test_conditions_are_proven_once_and_a_later_process_asks_once_more(way, opened):
    for requests in (2, 1):
        way.asked.clear()
        objects = opened(way.url)
        for number in range(5):
            objects.put(f"heads/{requests}{number}", b"x")
        assert sum(asked.method == "PUT" for asked in way.asked) == 5 + requests


@pytest.mark.parametrize("fault", PASSING, ids=str)
def test_what_passes_while_conditions_are_proven_is_not_heard_of(way, opened, fault):
    way.fail(2, fault, "PUT")
    objects = opened(way.url)
    objects.put("heads/a", b"a head")
    assert objects.get("heads/a") == b"a head"


@pytest.mark.parametrize(
    ("code", "word"),
    [
        ("RequestTimeTooSkewed", "its clock and this machine's"),
        ("InvalidAccessKeyId", "set the right one"),
        ("SignatureDoesNotMatch", "set the right one"),
        ("AccessDenied", "docs/stores.md"),
        ("SomethingElse", "docs/stores.md"),
    ],
)
def test_why_we_are_refused_is_told_whatever_was_asked(way, behind, code, word):
    """An answer to HEAD has no body, and a list's errors are of no kind in the library."""
    way.fault = lambda _: Answer(403, code)
    for ask in (
        lambda: behind.put("heads/a", b"x"),
        lambda: behind.get("heads/a"),
        lambda: behind.size("heads/a"),
        lambda: list(behind.names("heads")),
        lambda: behind.delete("heads/a"),
        lambda: behind.sweep(datetime.now(UTC)),
        lambda: sent(behind, "packs/a", bytes(MANY_PARTS)),
    ):
        with pytest.raises(Denied, match=rf"refuses us \({code}\).*{word}"):
            ask()


def test_an_upload_that_the_store_ended_is_to_be_sent_anew(way, behind):
    """As a bucket's rule does that ends what is unfinished for a day."""
    way.fault = lambda asked: Answer(404, "NoSuchUpload") if "uploadId" in asked.path else None
    with pytest.raises(Unavailable, match="ended the upload"):
        sent(behind, "packs/a", bytes(MANY_PARTS))


def test_credentials_that_cannot_be_read_are_named(way, opened):
    def key() -> S3Key:
        raise Denied("/etc/fedctl/vault-credentials cannot be read")

    objects = opened(way.url, key=key)
    upload = objects.upload("packs/a")
    for ask in (
        lambda: objects.put("heads/a", b"x"),
        lambda: objects.get("heads/a"),
        lambda: list(objects.names("heads")),
        lambda: (upload.write(bytes(MANY_PARTS)), upload.finish()),
    ):
        with pytest.raises(Denied, match="vault-credentials cannot be read"):
            ask()
    upload.abort()


def test_plain_http_has_to_be_allowed(server, opened):
    objects = opened(server, plain_http=False)
    with pytest.raises(Unavailable):
        objects.put("heads/a", b"x")


def test_a_private_endpoint_is_believed_by_its_certificate_alone(server, opened, tmp_path):
    authority, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    whose = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "the store's authority")])
    until = datetime.now(UTC) + timedelta(hours=1)

    def signed(subject: x509.Name, public, extension: x509.ExtensionType) -> bytes:
        return (
            x509.CertificateBuilder(whose, subject, public, x509.random_serial_number())
            .not_valid_before(until - timedelta(hours=2))
            .not_valid_after(until)
            .add_extension(extension, critical=True)
            .sign(authority, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )

    of_authority = signed(
        whose, authority.public_key(), x509.BasicConstraints(ca=True, path_length=None)
    )
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    pem = tmp_path / "both.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(private + signed(x509.Name([]), key.public_key(), here))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    way = Way(server, tls=tls)
    way.open()
    quick = {"plain_http": False, "patience": timedelta(seconds=0.1)}
    try:
        believed = opened(way.url, authority=of_authority, **quick)
        sent(believed, "packs/a", bytes(MANY_PARTS))
        assert believed.size("packs/a") == MANY_PARTS
        assert believed.sweep(datetime.now(UTC)) == 0
        strange = opened(way.url, **quick)
        for ask in (lambda: strange.get("packs/a"), lambda: strange.sweep(datetime.now(UTC))):
            with pytest.raises(Unavailable):
                ask()
    finally:
        way.close()


def test_a_wrong_key_is_denied_and_the_right_one_is_not(server, bucket, opened):
    """The server checks signatures here, by a user that it makes for this test."""
    iam = {"Version": "2010-05-08"}
    httpx.post(f"{server}/", data={**iam, "Action": "CreateUser", "UserName": bucket}, headers=IAM)
    rights = '{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}}'
    policy = {
        "Action": "PutUserPolicy",
        "UserName": bucket,
        "PolicyName": "p",
        "PolicyDocument": rights,
    }
    assert httpx.post(f"{server}/", data={**iam, **policy}, headers=IAM).is_success
    made = httpx.post(
        f"{server}/", data={**iam, "Action": "CreateAccessKey", "UserName": bucket}, headers=IAM
    ).text
    right = S3Key(
        id=made.partition("<AccessKeyId>")[2].partition("<")[0],
        secret=made.partition("<SecretAccessKey>")[2].partition("<")[0],
    )
    httpx.post(f"{server}/moto-api/reset-auth", content="0")
    try:
        good = opened(server, key=lambda: right)
        good.put("heads/a", b"a head")
        assert good.get("heads/a") == b"a head"
        assert good.sweep(datetime.now(UTC)) == 0
        for wrong in (KEY, S3Key(id=right.id, secret="another")):
            objects = opened(server, key=lambda wrong=wrong: wrong)
            for ask in (
                lambda objects=objects: objects.put("heads/b", b"x"),
                lambda objects=objects: objects.get("heads/a"),
                lambda objects=objects: list(objects.names("heads")),
                lambda objects=objects: objects.delete("heads/a"),
                lambda objects=objects: objects.sweep(datetime.now(UTC)),
            ):
                with pytest.raises(Denied):
                    ask()
        assert good.get("heads/a") == b"a head"
        with pytest.raises(NotFound):
            good.get("heads/b")
    finally:
        httpx.post(f"{server}/moto-api/reset-auth", content="inf")


IAM = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20261130/us-east-1/iam/aws4_request"}
