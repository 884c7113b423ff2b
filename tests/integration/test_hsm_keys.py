"""Private keys in an HSM: SoftHSM2 through its PKCS#11 library."""

from __future__ import annotations

import asyncio
import copy
import ctypes
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pkcs11 as cryptoki
import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from structlog.testing import capture_logs

from ra_gateway import keys, pkcs11
from ra_gateway.cmp.algorithms import (
    SIGNATURE_ALGORITHMS,
    certificate_hash,
    default_algorithm,
    signing_arguments,
    verify_signature,
)
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.config.trust_tables import RAConfig
from ra_gateway.errors import ConfigError, PKIFailureInfo, Problem, ServiceFailure
from ra_gateway.pkcs11 import token as token_module
from ra_gateway.pkcs11.key import HSMECKey, find_key, find_public
from ra_gateway.pkcs11.reference import Trouble
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import make_key
from tests.support.softhsm import PIN, SoftHSM

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NAME = x509.Name.from_rfc4514_string("CN=HSM,O=Example")
ECDSA = ec.ECDSA(hashes.SHA256())


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for PIN files that a URI names without a path."""
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="session")
def made(softhsm: SoftHSM, directory: Path) -> dict[str, Any]:
    """A key of every kind in token `ra`, labelled with its kind."""
    return {
        kind: pkcs11.generate(softhsm.uri(kind), kind, directory, "key")
        for kind in pkcs11.HSM_KEY_KINDS
    }


@pytest.fixture
def p256(made: dict[str, Any]) -> Any:
    """A P-256 key, as it is after a start: found in the token."""
    return made["p256"]


def refused(uri: str, directory: Path) -> Problem:
    """Return the one problem of a key that cannot be loaded; no text has the PIN."""
    with pytest.raises(ConfigError) as caught:
        pkcs11.load(uri, directory, "ra.key_path")
    [problem] = caught.value.problems
    assert problem.path == "ra.key_path"
    assert PIN not in str(caught.value)
    return problem


def issue(key: Any, issuer_key: Any, **options: Any) -> Certificate:
    """Issue a certificate for ten years from now."""
    return keys.sign_certificate(
        NAME, key, NAME, issuer_key, not_before=NOW, not_after=NOW + timedelta(3650), **options
    )


# --- Signing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", pkcs11.HSM_KEY_KINDS)
async def test_a_key_signs(kind: str, made: dict[str, Any], softhsm: SoftHSM) -> None:
    """Of every kind, with its usual algorithm; and so does the key that is found again by its label."""
    for key in (made[kind], pkcs11.load(softhsm.uri(kind), Path(), "key")):
        signer = keys.KeySigner(key)
        signature = await signer.sign(b"octets")
        verify_signature(signer.algorithm, key.public_key(), signature, b"octets")
        assert keys.signs_elsewhere(key)


@pytest.mark.parametrize(
    "kind, name",
    [
        *(("rsa2048", name) for name in SIGNATURE_ALGORITHMS if name.startswith("rsa-")),
        *(("p256", f"ecdsa-{name}") for name in ("sha256", "sha384", "sha512")),
        *(("p521", f"ecdsa-{name}") for name in ("sha256", "sha384", "sha512")),
    ],
)
def test_every_algorithm(kind: str, name: str, made: dict[str, Any]) -> None:
    """PKCS #1 and PSS padding, and hashes longer or shorter than the curve; but nothing obsolete."""
    key, algorithm = made[kind], SIGNATURE_ALGORITHMS[name]
    arguments = signing_arguments(algorithm)
    if algorithm.hash_name in ("md5", "sha1"):
        with pytest.raises(UnsupportedAlgorithm):
            key.sign(b"octets", *arguments)
    else:
        verify_signature(algorithm, key.public_key(), key.sign(b"octets", *arguments), b"octets")


@pytest.mark.parametrize("salt", [0, 20, padding.PSS.DIGEST_LENGTH, padding.PSS.MAX_LENGTH])
def test_pss_with_any_salt(salt: Any, made: dict[str, Any]) -> None:
    """The salt is as long as it was asked for."""
    key, pss = made["rsa2048"], padding.PSS(padding.MGF1(hashes.SHA256()), salt)
    signature = key.sign(b"octets", pss, hashes.SHA256())
    key.public_key().verify(signature, b"octets", pss, hashes.SHA256())


def test_what_is_not_signed(made: dict[str, Any]) -> None:
    """Ready hashes, paddings and parameters that the HSM would get wrong are refused."""
    rsa = made["rsa2048"]
    mixed = padding.PSS(padding.MGF1(hashes.SHA384()), 32)
    auto = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.AUTO)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    for unfit in (mixed, auto, oaep):
        with pytest.raises(UnsupportedAlgorithm):
            rsa.sign(b"octets", unfit, hashes.SHA256())
    with pytest.raises(UnsupportedAlgorithm):
        rsa.sign(bytes(32), padding.PKCS1v15(), Prehashed(hashes.SHA256()))
    with pytest.raises(UnsupportedAlgorithm):
        made["p256"].sign(bytes(32), ec.ECDSA(Prehashed(hashes.SHA256())))


@pytest.mark.parametrize("kind", pkcs11.HSM_KEY_KINDS)
def test_what_is_built_with_a_key_verifies(kind: str, made: dict[str, Any]) -> None:
    """Certificates, CRLs, requests and OCSP answers, by the builders of the library."""
    key = made[kind]
    hash_algorithm = certificate_hash(key.public_key())
    root = issue(key, key, path_length=0)
    leaf = issue(make_key("p256"), key)
    ca, certificate = (x509.load_der_x509_certificate(item.der) for item in (root, leaf))
    certificate.verify_directly_issued_by(ca)
    ca.verify_directly_issued_by(ca)
    crl = x509.CertificateRevocationListBuilder().issuer_name(NAME).last_update(NOW)
    signed = crl.next_update(NOW + timedelta(1)).sign(key, hash_algorithm)
    assert signed.is_signature_valid(key.public_key())
    request = x509.CertificateSigningRequestBuilder().subject_name(NAME).sign(key, hash_algorithm)
    assert request.is_signature_valid
    answer = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            certificate, ca, hashes.SHA256(), ocsp.OCSPCertStatus.GOOD, NOW, None, None, None
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, ca)
        .sign(key, hash_algorithm)
    )
    assert answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL


@pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519"])
def test_a_key_never_leaves(kind: str, made: dict[str, Any], softhsm: SoftHSM) -> None:
    """Whatever would need its value says so; the object itself is sensitive and cannot be extracted."""
    key = made[kind]
    names = ["private_bytes"]
    names += {
        "p256": ["private_numbers", "exchange"],
        "rsa2048": ["private_numbers", "decrypt"],
    }.get(kind, ["private_bytes_raw"])
    for name in names:
        with pytest.raises(ConfigError, match="never leaves the HSM"):
            getattr(key, name)(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key
    found = key._token.run(
        lambda connection: find_key(connection.session, key._reference).get_attributes(
            [
                cryptoki.Attribute.SENSITIVE,
                cryptoki.Attribute.EXTRACTABLE,
                cryptoki.Attribute.PRIVATE,
                cryptoki.Attribute.NEVER_EXTRACTABLE,
            ]
        )
    )
    assert list(found.values()) == [True, False, True, True]


def test_texts_show_names_and_no_pin(p256: Any) -> None:
    """What a log would show of a key, or of its token."""
    assert repr(p256) == "<HSMECKey token ra, object p256>"
    assert PIN not in repr(vars(p256))


# --- Beside the event loop ------------------------------------------------------------------------


async def test_the_event_loop_runs_on(p256: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While slow signatures are made, side by side, everything else goes on."""

    running = most = 0

    def slowly(*arguments: Any) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.4)
        running -= 1
        return sign_in_hsm(p256, *arguments)

    sign_in_hsm = HSMECKey.sign
    monkeypatch.setattr(p256, "sign", slowly, raising=False)
    signer, turns = keys.KeySigner(p256), 0
    signing = asyncio.gather(*(signer.sign(b"octets") for _ in range(pkcs11.MAX_SESSIONS)))
    while not signing.done():
        await asyncio.sleep(0.01)
        turns += 1
    for signature in await signing:
        verify_signature(signer.algorithm, p256.public_key(), signature, b"octets")
    assert turns >= 10
    assert most > 1


async def test_an_hsm_that_hangs_fails_the_request_only(
    p256: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemFailure when time is up; the next signature is made again."""
    may_go_on = threading.Event()
    monkeypatch.setattr(pkcs11, "ANSWER_SECONDS", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(p256, "sign", lambda *_: may_go_on.wait(30), raising=False)
        with pytest.raises(ServiceFailure, match=r"within 0\.05 s"):
            await keys.KeySigner(p256).sign(b"octets")
    may_go_on.set()
    monkeypatch.setattr(pkcs11, "ANSWER_SECONDS", 10.0)
    assert await keys.KeySigner(p256).sign(b"octets")


def test_many_threads_share_a_few_sessions(p256: Any) -> None:
    """Sixteen threads at once get right signatures, and no more sessions are left than are allowed."""

    def sign(number: int) -> None:
        octets = b"octets %d" % number
        p256.public_key().verify(p256.sign(octets, ECDSA), octets, ECDSA)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(sign, range(400)))
    assert 1 <= len(p256._token._free) <= pkcs11.MAX_SESSIONS


# --- Key files ------------------------------------------------------------------------------------


def test_a_credential_whose_key_is_in_the_hsm(softhsm: SoftHSM, tmp_path: Path) -> None:
    """A configuration names a key file; it does not matter that the key is elsewhere."""
    (tmp_path / "pin").write_text(PIN)
    (tmp_path / "pin").chmod(0o600)
    uri = softhsm.uri("gateway's key; the 1st", pin_source="file:pin", key_id=b"\x07")
    key = keys.new_key(tmp_path / "ra.key", "p256", password=None, uri=uri)
    keys.write_certificates(tmp_path / "ra.pem", [issue(key, make_key("p256"))])
    paths = {"certificate_path": Path("ra.pem"), "key_path": Path("ra.key")}
    ra = RAConfig.model_validate(paths, context={"directory": tmp_path, "check_files": True})
    credential = keys.load_credential(ra.certificate_path, ra.key_path, setting="ra")
    assert credential.signer.algorithm.name == "ecdsa-sha256"
    assert (tmp_path / "ra.key").read_text() == uri + "\n"


def test_a_key_that_was_not_made_leaves_no_file(softhsm: SoftHSM, tmp_path: Path) -> None:
    """Another attempt with a better URI finds nothing in its way."""
    path = tmp_path / "key"
    with pytest.raises(ConfigError, match="no such token"):
        keys.new_key(path, "p256", password=None, uri=softhsm.uri("k", token="nowhere"))
    with pytest.raises(ConfigError, match="mldsa44 is not made in an HSM"):
        keys.new_key(path, "mldsa44", password=None, uri=softhsm.uri("k"))
    with pytest.raises(ConfigError, match="no label"):
        keys.new_key(path, "p256", password=None, uri=softhsm.uri(None, key_id=b"\x63"))
    assert not path.exists()


@pytest.mark.usefixtures("made")
def test_keys_are_never_replaced(softhsm: SoftHSM, tmp_path: Path) -> None:
    """Neither under the label nor under the id of one that is there."""
    with pytest.raises(ConfigError, match="of this label or id already"):
        keys.new_key(tmp_path / "key", "p256", password=None, uri=softhsm.uri("p256"))
    keys.new_key(tmp_path / "1", "p256", password=None, uri=softhsm.uri("first", key_id=b"\x55"))
    with pytest.raises(ConfigError, match="of this label or id already"):
        keys.new_key(tmp_path / "2", "p256", password=None, uri=softhsm.uri("2nd", key_id=b"\x55"))


# --- What is wrong at the start -------------------------------------------------------------------


@pytest.mark.usefixtures("made")
def test_no_such_key(softhsm: SoftHSM, directory: Path) -> None:
    """Nor one of this label with another id; nor without the PIN, when it is private."""
    for uri in (softhsm.uri("p255"), softhsm.uri("p256", key_id=b"\x99")):
        assert refused(uri, directory).what.startswith("the token has no such private key")
    hidden = softhsm.uri("p256", token="pinless", pin_source="")
    assert "add pin-source" in refused(hidden, directory).todo


def test_no_such_token(softhsm: SoftHSM, directory: Path) -> None:
    """The error repeats which one was looked for."""
    found = refused(softhsm.uri("k", token="nowhere"), directory)
    assert found.what == "the HSM has no such token (token nowhere, object k)"


def test_two_tokens_of_one_label(softhsm: SoftHSM, directory: Path) -> None:
    """They are told apart by their serial numbers."""
    uri = softhsm.uri("k", token="twin")
    assert refused(uri, directory).what.startswith("the HSM has several such tokens")
    serials = {
        token.serial.decode()
        for token in token_module._library(softhsm.module_path).get_tokens(token_label="twin")
    }
    assert len(serials) == 2
    for serial in serials:
        found = refused(uri.replace("object=", f"serial={serial};object="), directory)
        assert found.what.startswith("the token has no such private key")


def test_two_keys_of_one_label(softhsm: SoftHSM, directory: Path) -> None:
    """The id tells them apart."""
    for number in (1, 2):
        uri = softhsm.uri(f"double-{number}", key_id=bytes([0x40 + number]))
        key = pkcs11.generate(uri, "p256", directory, "key")
        relabel(key, "double")
    found = refused(softhsm.uri("double"), directory)
    assert found.what == "the token has several private keys of this name"
    second = pkcs11.load(softhsm.uri("double", key_id=b"\x42"), directory, "key")
    assert second.public_key() == key.public_key()


def relabel(key: Any, label: str) -> None:
    """Give a private key in the token another label."""

    def work(connection: Any) -> None:
        with connection.session.token.open(rw=True) as session:
            find_key(session, key._reference)[cryptoki.Attribute.LABEL] = label

    key._token.run(work)


def test_no_public_key(softhsm: SoftHSM, directory: Path) -> None:
    """Without one object that fits, nobody knows what the signatures will be verified with."""
    key = pkcs11.generate(softhsm.uri("bereft"), "p256", directory, "key")
    with_public_key(key, lambda public: public.destroy())
    found = refused(softhsm.uri("bereft"), directory)
    assert found.what == "the token has no public keys that fit the private key"


def test_a_public_key_of_another_private_key(softhsm: SoftHSM, directory: Path) -> None:
    """A trial signature shows it."""
    first = pkcs11.generate(softhsm.uri("first-half", key_id=b"\x31"), "p256", directory, "key")
    other = pkcs11.generate(softhsm.uri("other-half", key_id=b"\x32"), "p256", directory, "key")
    with_public_key(first, lambda public: public.destroy())
    with_public_key(other, lambda public: set_id(public, b"\x31"))
    found = refused(softhsm.uri("first-half"), directory)
    assert found.what.startswith("a trial signature does not verify")


def with_public_key(key: Any, change: Any) -> None:
    """Change the public key object of a private key."""

    def work(connection: Any) -> None:
        with connection.session.token.open(rw=True) as session:
            change(find_public(session, find_key(session, key._reference)))

    key._token.run(work)


def set_id(found: Any, key_id: bytes) -> None:
    found[cryptoki.Attribute.ID] = key_id


@pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519"])
@pytest.mark.parametrize("whole", [True, False])
def test_a_swapped_key_signs_nothing(
    softhsm: SoftHSM, directory: Path, kind: str, whole: bool
) -> None:
    """Another key got the name of the one that was loaded: with its public key, or beside that of before."""
    name = f"swapped-{kind}-{whole}"
    first = pkcs11.generate(softhsm.uri(name, key_id=b"\x71"), kind, directory, "key")
    other = pkcs11.generate(softhsm.uri(f"{name}-2", key_id=b"\x72"), kind, directory, "key")
    octets, arguments = b"octets", signing_arguments(default_algorithm(first.public_key()))
    assert first.sign(octets, *arguments)
    if whole:
        with_public_key(first, lambda public: public.destroy())

    def swap(connection: Any) -> None:
        with connection.session.token.open(rw=True) as session:
            find_key(session, first._reference).destroy()
            private = find_key(session, other._reference)
            if whole:
                set_id(find_public(session, private), b"\x71")
            set_id(private, b"\x71")
            private[cryptoki.Attribute.LABEL] = name

    first._token.run(swap)
    for connection in first._token._free:
        connection.session.close()  # as by a restart of the HSM
    with pytest.raises(ServiceFailure, match="the token has another key of this name now"):
        first.sign(octets, *arguments)
    # What names it finds the other one after a start, which the certificate then is not for.
    if whole:
        found = pkcs11.load(softhsm.uri(name, key_id=b"\x71"), directory, "key")
        with pytest.raises(ConfigError, match="the private key does not belong to the certificate"):
            keys.make_credential(issue(first, make_key("p256")), (), found, "ra.key_path")
    with_key(softhsm, other, name)


def with_key(softhsm: SoftHSM, key: Any, name: str) -> None:
    """Clear away what a name finds now."""

    def work(connection: Any) -> None:
        with connection.session.token.open(rw=True) as session:
            for found in list(session.get_objects({cryptoki.Attribute.ID: b"\x71"})):
                found.destroy()
            for found in list(session.get_objects({cryptoki.Attribute.ID: b"\x72"})):
                found.destroy()

    key._token.run(work)


def test_a_key_that_can_be_taken_out_is_told_of(softhsm: SoftHSM, directory: Path) -> None:
    """It was imported without protection; ours are made with it."""
    good = pkcs11.generate(softhsm.uri("guarded", key_id=b"\x73"), "rsa2048", directory, "key")
    assert good.weakness == ""

    def make(connection: Any) -> None:
        with connection.session.token.open(rw=True) as session:
            session.generate_keypair(
                cryptoki.KeyType.RSA, 2048, label="open", id=b"\x74", store=True,
                private_template={
                    cryptoki.Attribute.SENSITIVE: False,
                    cryptoki.Attribute.EXTRACTABLE: True,
                },
            )  # fmt: skip

    good._token.run(make)
    with capture_logs() as lines:
        key = pkcs11.load(softhsm.uri("open", key_id=b"\x74"), directory, "key")
    assert "CKA_SENSITIVE is false" in key.weakness
    assert "CKA_EXTRACTABLE is true" in keys.KeySigner(key).weakness
    assert [line["event"] for line in lines] == ["hsm.key_unprotected"]


def test_a_library_that_is_none(softhsm: SoftHSM, directory: Path) -> None:
    """Nothing there, no shared library, and one without PKCS#11."""
    other = Path(ctypes.__file__).with_name("no.so")
    assert refused(softhsm.uri("k", module_path=other), directory).what == (
        f"there is no PKCS#11 library {other}"
    )
    for module in (softhsm.pin_path, Path(cryptoki._pkcs11.__file__)):
        found = refused(softhsm.uri("k", module_path=module), directory)
        assert found.what.startswith(f"{module} is not a PKCS#11 library that can be loaded here")


def test_a_wrong_pin(softhsm: SoftHSM, directory: Path) -> None:
    """It is told and not shown; and the right one helps."""
    wrong = directory / "wrong-pin"
    wrong.write_text("0000-wrong")
    wrong.chmod(0o600)
    uri = softhsm.uri("k", token="guarded", pin_source=f"file:{wrong}")
    found = refused(uri, directory)
    assert found.what == "the HSM does not accept the PIN"
    assert "0000-wrong" not in str(found)
    key = pkcs11.generate(softhsm.uri("k", token="guarded"), "p256", directory, "key")
    assert key.sign(b"octets", ECDSA)
    # Logged in, the HSM would not look at a PIN any more; we do.
    assert refused(uri, directory).what == ("another key of this token was loaded with another PIN")


def test_a_pin_file_that_others_can_read(softhsm: SoftHSM, directory: Path) -> None:
    """It is not used."""
    path = directory / "open-pin"
    path.write_text(PIN)
    path.chmod(0o644)
    found = refused(softhsm.uri("p256", pin_source="file:open-pin"), directory)
    assert found.todo == f"Run: chmod 600 {path}"


# --- What goes wrong later ------------------------------------------------------------------------


def test_lost_sessions_are_opened_again(p256: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An HSM that was restarted has forgotten sessions and login; one new login, and nobody notices."""
    monkeypatch.setattr(token_module, "_PAUSE_SECONDS", 0.0)
    token = p256._token
    p256.sign(b"octets", ECDSA)
    for connection in token._free:
        connection.session.close()
    assert p256.sign(b"octets", ECDSA)
    token._login.session.close()  # logs out, as python-pkcs11 does it
    assert p256.sign(b"octets", ECDSA)
    assert p256.sign(b"octets", ECDSA)


async def test_a_token_that_is_gone(softhsm: SoftHSM, directory: Path, tmp_path: Path) -> None:
    """systemFailure, with the name of the key for the log; other tokens are as they were."""
    # A library of its own: one that has lost a token fails whenever somebody looks at every token.
    module = Path(shutil.copy(softhsm.module_path, tmp_path))
    uri = softhsm.uri("k", token="lost", module_path=module)
    key = pkcs11.generate(uri, "p256", directory, "key")
    (found,) = [
        path.parent
        for path in softhsm.directory.glob("tokens/*/token.object")
        if b"lost" in path.read_bytes()
    ]
    gone = found.rename(softhsm.directory / "lost")
    try:
        with pytest.raises(ServiceFailure) as caught:
            await keys.KeySigner(key).sign(b"octets")
        assert caught.value.fail_info is PKIFailureInfo.systemFailure
        assert caught.value.detail.startswith("key in the HSM (token lost, object k): ")
        beside = softhsm.uri("beside", token="ca", module_path=module)
        assert pkcs11.generate(beside, "p256", directory, "key")
    finally:
        gone.rename(found)


def test_a_refused_login_is_not_tried_again(
    softhsm: SoftHSM, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A PIN that was changed meanwhile must not lock the token; a failure of another kind passes."""
    key = pkcs11.generate(softhsm.uri("k", token="spare"), "p256", directory, "key")
    logins: list[Any] = []
    failure: list[cryptoki.PKCS11Error] = [cryptoki.DeviceError()]
    log_in = token_module._log_in

    def refuse(token: Any, pin: str | None) -> Any:
        logins.append(token)
        if failure:
            raise failure[0]
        return log_in(token, pin)

    monkeypatch.setattr(token_module, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(token_module, "_log_in", refuse)
    token = key._token
    token._drop(token._logins)
    for _ in range(2):
        with pytest.raises(ServiceFailure, match="the HSM answered DeviceError"):
            key.sign(b"octets", ECDSA)
    assert len(logins) == 2
    failure.clear()
    assert key.sign(b"octets", ECDSA)
    failure.append(cryptoki.PinIncorrect())
    token._drop(token._logins)
    for _ in range(3):
        with pytest.raises(ServiceFailure, match="does not accept the PIN"):
            key.sign(b"octets", ECDSA)
    assert len(logins) == 4


def test_the_last_attempt_is_left_to_people() -> None:
    """Services are started again and again by themselves; they must not lock a token."""
    token = SimpleNamespace(flags=cryptoki.TokenFlag.USER_PIN_FINAL_TRY)
    with pytest.raises(Trouble, match="so this one was not tried"):
        token_module._log_in(token, PIN)


def test_waiting_threads_do_not_repeat_a_failed_login(
    softhsm: SoftHSM, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that waited for the same login get its failure at once."""
    key = pkcs11.generate(softhsm.uri("k", token="ca"), "p256", directory, "key")
    logins = []

    def hang(token: Any, pin: str | None) -> Any:
        logins.append(token)
        time.sleep(0.1)
        raise cryptoki.DeviceRemoved

    def sign(_: int) -> str:
        with pytest.raises(ServiceFailure) as caught:
            key.sign(b"octets", ECDSA)
        return caught.value.detail

    monkeypatch.setattr(token_module, "_PAUSE_SECONDS", 30.0)
    key._token._drop(key._token._logins)
    with monkeypatch.context() as patch:
        patch.setattr(token_module, "_log_in", hang)
        with ThreadPoolExecutor(8) as threads:
            details = set(threads.map(sign, range(8)))
    assert details == {"key in the HSM (token ca, object k): the HSM answered DeviceRemoved"}
    assert len(logins) == 1
    key._token._trouble_until = 0.0
    assert key.sign(b"octets", ECDSA)


def test_what_is_no_loss_costs_no_login(p256: Any) -> None:
    """A mechanism the HSM lacks is told at once, and the sessions of others stay."""
    token = p256._token
    logins = token._logins
    with pytest.raises(ServiceFailure, match="MechanismInvalid"):
        p256._sign(bytes(32), cryptoki.Mechanism.ECDSA_SHA512)
    assert token._logins == logins


def test_a_process_ends_quietly(softhsm: SoftHSM, directory: Path, p256: Any) -> None:
    """No word and no crash from the library when the interpreter goes."""
    program = (
        "import sys; from pathlib import Path; from ra_gateway import keys, pkcs11; import asyncio; "
        "key = pkcs11.load(sys.argv[1], Path(), 'key'); "
        "asyncio.run(keys.KeySigner(key).sign(b'octets'))"
    )
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, softhsm.uri("p256")],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
