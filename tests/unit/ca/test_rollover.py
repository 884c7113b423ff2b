"""Changing a CA's keys: what the new CA is, what becomes of the old one, and that no moment is without a CA."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from ra_gateway.ca import ra_credential
from ra_gateway.ca.files import changing
from ra_gateway.ca.hierarchy import certify_signer, parse_subject
from ra_gateway.ca.keys import (
    CAKeys,
    create_operator_pki,
    expiries,
    import_ca,
    load_ca,
    root_ca_key_update,
)
from ra_gateway.ca.profiles import RA
from ra_gateway.ca.ra_credential import export_pkcs12, install_ra, issue_ra_certificate
from ra_gateway.ca.rollover import renew_signers, roll_issuing, roll_root
from ra_gateway.cmp.algorithms import verify_signature
from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.protection import Credential
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.errors import ConfigError, SignerNotTrusted
from ra_gateway.keys import (
    KEY_KINDS,
    load_certificates,
    load_credential,
    load_private_key,
    write_private_key,
)
from tests.support.softhsm import SoftHSM

NOW = datetime.now(UTC).replace(microsecond=0)  # openssl has the same clock
SUBJECT = "CN=ra1,O=Example Operator"
SIGNER_FILES = {"cmp.pem", "cmp.key", "ocsp.pem", "ocsp.key"}
ISSUING_FILES = SIGNER_FILES | {"issuing.pem", "issuing.key"}
FILES = ISSUING_FILES | {"root.pem", "root.key"}
UPDATE_FILES = {"old-root.pem", "root-new-with-old.pem", "root-old-with-new.pem"}


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """A CA."""
    await create_operator_pki(tmp_path / "ca", now=NOW, name="Op")
    return tmp_path / "ca"


def names(directory: Path) -> set[str]:
    """Return names of all files below a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def below(prefix: str, files: set[str]) -> set[str]:
    """Return names of files in a subdirectory."""
    return {f"{prefix}/{name}" for name in files}


def contents(directory: Path) -> set[bytes]:
    """Return what the files below a directory hold."""
    return {path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def read(path: Path) -> Certificate:
    """Return the first certificate of a file."""
    return load_certificates(path, "test")[0]


def openssl_verify(directory: Path, anchor: str, untrusted: list[str], leaf: str) -> None:
    """Have openssl validate a path with every strict check it has."""
    options = [option for name in untrusted for option in ("-untrusted", name)]
    subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", anchor, *options, leaf],
        cwd=directory,
        check=True,
        capture_output=True,
    )


async def signs(credential: Credential) -> None:
    """Sign something and verify it."""
    signature = await credential.signer.sign(b"octets")
    key = credential.certificate.public_key
    verify_signature(credential.signer.algorithm, key, signature, b"octets")


# --- The issuing CA ---------------------------------------------------------------------------------------------


async def test_an_issuing_ca_is_succeeded(directory: Path) -> None:
    """The new one issues; the old one and its OCSP signer go on, until its certificate expires."""
    before = load_ca(directory, now=NOW)
    ra = await issue_ra_certificate(directory, SUBJECT, now=NOW, target=directory.parent)
    certificate = await roll_issuing(directory, now=NOW + timedelta(minutes=1))
    assert names(directory) == FILES | below("retired/1", ISSUING_FILES)
    assert {path.stat().st_mode & 0o777 for path in directory.rglob("*.key")} == {0o600}
    after = load_ca(directory, now=NOW)
    active, retired = after.issuers
    assert active.certificate == certificate
    assert certificate.subject == "CN=Op Issuing CA G2,O=Op"
    assert after.credential.certificate.subject == before.credential.certificate.subject
    assert after.credential.certificate != before.credential.certificate
    assert retired.certificate == before.issuers[0].certificate
    assert after.ocsp[retired.id].certificate == before.ocsp[retired.id].certificate
    assert set(after.ocsp) == {active.id, retired.id}
    for credential in (after.credential, *after.ocsp.values()):
        await signs(credential)
    domain = TrustDomain(
        "operator",
        DomainKind.operator,
        (after.root,),
        tuple(issuer.certificate for issuer in after.issuers),
    )
    for leaf in (ra, after.credential.certificate, after.ocsp[active.id].certificate):
        domain.find_path(leaf, (), NOW)
    openssl_verify(directory, "root.pem", ["issuing.pem"], "cmp.pem")
    openssl_verify(directory, "root.pem", ["retired/1/issuing.pem"], "../ra.pem")
    # Its successor is retired as well, and the first has expired.
    await roll_issuing(directory, now=NOW + timedelta(days=100))
    later = NOW + timedelta(days=3650, seconds=30)
    await renew_signers(directory, now=later, within_days=30)
    keys = load_ca(directory, now=later)
    subjects = [issuer.certificate.subject for issuer in keys.issuers]
    assert subjects == ["CN=Op Issuing CA G3,O=Op", "CN=Op Issuing CA G2,O=Op"]


async def test_kind_and_name_of_the_successor_can_be_chosen(directory: Path) -> None:
    """The name must be another than those there are."""
    with pytest.raises(ConfigError, match="has this name already"):
        await roll_issuing(directory, now=NOW, subject="CN=op issuing CA,O=OP")
    assert names(directory) == FILES
    certificate = await roll_issuing(directory, now=NOW, subject="CN=Two,O=Op", key_kind="ed25519")
    assert certificate.subject == "CN=Two,O=Op"
    keys = load_ca(directory, now=NOW)
    assert keys.credential.certificate.subject == "CN=Two CMP,O=Op"
    assert keys.credential.signer.algorithm.name == "ed25519"


async def test_the_root_s_key_may_be_kept_elsewhere(directory: Path) -> None:
    """It is asked for when it is missing, and another key is not taken for it."""
    elsewhere = directory.parent / "safe.key"
    (directory / "root.key").rename(elsewhere)
    for roll in (roll_issuing, roll_root):
        with pytest.raises(ConfigError, match=r"root\.key is not there"):
            await result(roll(directory, now=NOW))
        with pytest.raises(ConfigError, match=r"cmp\.key is not the key of CN=Op Root CA"):
            await result(roll(directory, now=NOW, root_key_path=directory / "cmp.key"))
    assert names(directory) == FILES - {"root.key"}
    await roll_issuing(directory, now=NOW, root_key_path=elsewhere)
    assert not (directory / "root.key").exists()
    roll_root(directory, now=NOW, root_key_path=elsewhere)
    load_ca(directory, now=NOW)
    assert load_private_key(directory / "root.key", None, "root").public_key() == (
        read(directory / "root.pem").public_key
    )


async def test_the_root_s_key_may_have_another_password(tmp_path: Path) -> None:
    """The new root's key gets it too."""
    await create_operator_pki(tmp_path, now=NOW, password=b"one")
    key = load_private_key(tmp_path / "root.key", b"one", "root")
    (tmp_path / "root.key").unlink()
    write_private_key(tmp_path / "root.key", key, b"two")
    with pytest.raises(ConfigError, match="wrong password"):
        roll_root(tmp_path, now=NOW, password=b"one")
    roll_root(tmp_path, now=NOW, password=b"one", root_password=b"two")
    await roll_issuing(tmp_path, now=NOW, password=b"one", root_password=b"two")
    load_ca(tmp_path, now=NOW, password=b"one")


async def result(value: Certificate | Awaitable[Certificate]) -> Certificate:
    """Return the outcome of a function, whether it is a coroutine or not."""
    return value if isinstance(value, Certificate) else await value


async def test_an_expired_root_cannot_be_succeeded(directory: Path) -> None:
    """Nobody would trust the way to its successor."""
    for roll in (roll_issuing, roll_root):
        with pytest.raises(ConfigError, match=r"Root CA.*is not valid now"):
            await result(roll(directory, now=NOW + timedelta(days=21 * 365)))


# --- The root ---------------------------------------------------------------------------------------------------


@pytest.mark.requirement(134)
@pytest.mark.parametrize("kind", ["p256", "rsa2048", "mldsa44"])
async def test_a_root_is_succeeded(tmp_path: Path, kind: str) -> None:
    """Whoever trusts one of the two roots trusts what the other one's CA issues (RFC 9810 4.4)."""
    directory = tmp_path / "ca"
    await create_operator_pki(directory, now=NOW, name="Op", key_kind=kind)
    await roll_issuing(directory, now=NOW)
    before = load_ca(directory, now=NOW)
    root = roll_root(directory, now=NOW + timedelta(hours=1))
    assert names(directory) == (
        FILES
        | UPDATE_FILES
        | below("retired/1", ISSUING_FILES)
        | below("retired-roots/1", {"root.pem", "root.key", "issuing.pem"})
    )
    later = NOW + timedelta(hours=2)
    after = load_ca(directory, now=later)
    assert (after.root, after.old_root) == (root, before.root)
    assert (root.subject_der, root.self_issued) == (before.root.subject_der, True)
    assert after.credential.certificate == before.credential.certificate
    issuing, old_issuing = after.issuers[0].certificate, before.issuers[0].certificate
    assert issuing.spki_der == old_issuing.spki_der
    assert (issuing.subject_der, issuing.not_after) == (
        old_issuing.subject_der,
        old_issuing.not_after,
    )
    assert after.issuers[0].chain == (root,)
    assert after.issuers[1].chain == (before.root,)
    update = after.root_update
    assert update is not None
    assert update == root_ca_key_update(directory)
    assert (update.old_root, update.new_with_new) == (before.root.der, root.der)
    new_with_old, old_with_new = (
        Certificate.from_der(der) for der in (update.new_with_old, update.old_with_new)
    )
    assert new_with_old.not_after == before.root.not_after
    assert (old_with_new.not_before, old_with_new.not_after) == (
        before.root.not_before,
        before.root.not_after,
    )
    signer, old_signer = (one.certificate for one in after.ocsp.values())
    # Old root, new issuing CA; new root, old issuing CA. Neither without the cross certificate.
    for anchor, cross, issuer, leaf in (
        (before.root, new_with_old, issuing, signer),
        (root, old_with_new, after.issuers[1].certificate, old_signer),
    ):
        domain = TrustDomain("operator", DomainKind.operator, (anchor,))
        domain.find_path(leaf, (issuer, cross), later)
        with pytest.raises(SignerNotTrusted):
            domain.find_path(leaf, (issuer,), later)


async def test_openssl_follows_the_cross_certificates(directory: Path) -> None:
    """Both ways, strictly."""
    await roll_issuing(directory, now=NOW)
    roll_root(directory, now=NOW)
    openssl_verify(directory, "root.pem", ["issuing.pem"], "cmp.pem")
    openssl_verify(directory, "old-root.pem", ["retired/1/issuing.pem"], "retired/1/ocsp.pem")
    openssl_verify(directory, "old-root.pem", ["root-new-with-old.pem", "issuing.pem"], "cmp.pem")
    openssl_verify(
        directory,
        "root.pem",
        ["root-old-with-new.pem", "retired/1/issuing.pem"],
        "retired/1/ocsp.pem",
    )


async def test_everything_may_be_succeeded_again_and_again(directory: Path) -> None:
    """Each issuing CA keeps the chain to its root, and all that was replaced is still there."""
    await roll_issuing(directory, now=NOW)
    first = read(directory / "root.pem")
    second = roll_root(directory, now=NOW)
    await roll_issuing(directory, now=NOW)
    kept = contents(directory)
    third = roll_root(directory, now=NOW, key_kind="p384")
    assert kept <= contents(directory)
    await renew_signers(directory, now=NOW)
    assert kept <= contents(directory)
    keys = load_ca(directory, now=NOW)
    assert [issuer.chain for issuer in keys.issuers] == [(third,), (second,), (first,)]
    assert keys.old_root == second
    assert below("retired-roots/2", UPDATE_FILES) <= names(directory)
    assert {item.file for item in expiries(directory)} == {
        name for name in FILES | UPDATE_FILES if name.endswith(".pem")
    } | {f"retired/{number}/{stem}.pem" for number in (1, 2) for stem in ("issuing", "ocsp")}


async def test_a_root_that_issues_itself_gets_an_issuing_ca_first(directory: Path) -> None:
    """Imported, with the key identifiers of another product; then its root can be succeeded as well."""
    imported = directory.parent / "imported"
    await import_ca(
        imported,
        now=NOW,
        certificate_path=directory / "root.pem",
        key_path=directory / "root.key",
        password=b"pw",
    )
    with pytest.raises(ConfigError, match="First run: ra-gateway ca roll-issuing"):
        roll_root(imported, now=NOW, password=b"pw")
    certificate = await roll_issuing(imported, now=NOW, password=b"pw")
    assert certificate.subject == "CN=Op Root CA G2,O=Op"
    assert certificate.basic_constraints == (True, 0)
    roll_root(imported, now=NOW, password=b"pw")
    active, retired = load_ca(imported, now=NOW, password=b"pw").issuers
    assert active.certificate.spki_der == certificate.spki_der
    assert (retired.certificate, retired.chain) == (read(directory / "root.pem"), ())


# --- Signers ----------------------------------------------------------------------------------------------------


async def test_signers_are_renewed_when_they_are_due(directory: Path) -> None:
    """Retired issuing CAs' too; the names stay, the keys do not."""
    assert await renew_signers(directory, now=NOW, within_days=30) == ()
    assert names(directory) == FILES
    await roll_issuing(directory, now=NOW)
    before = load_ca(directory, now=NOW)
    later = NOW + timedelta(days=340)
    expected = ("ocsp.pem", "retired/1/ocsp.pem")
    assert await renew_signers(directory, now=later, within_days=30) == expected
    after = load_ca(directory, now=later)
    assert after.credential.certificate == before.credential.certificate
    for issuer_id, credential in after.ocsp.items():
        old, new = before.ocsp[issuer_id].certificate, credential.certificate
        assert new.subject_der == old.subject_der
        assert new.spki_der != old.spki_der
        await signs(credential)
    pairs = {"ocsp.pem", "ocsp.key", "retired/1/ocsp.pem", "retired/1/ocsp.key"}
    assert below("retired-signers/1", pairs) <= names(directory)
    # Even when they have expired, and whatever else has.
    await renew_signers(directory, now=later + timedelta(days=1000), within_days=30)
    load_ca(directory, now=later + timedelta(days=1000))


# --- Interrupted ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process is dead; nothing that runs after this can do anything."""


class Death:
    """Fails a file operation below a directory, and every one after it, as if the process were gone."""

    def __init__(self) -> None:
        self.directory = ""
        self.operations_left = 0
        self.last_written = ""
        self.is_dead = False
        sys.addaudithook(self._look)

    def _look(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.directory or event not in (
            "open",
            "os.rename",
            "os.mkdir",
            "os.remove",
            "os.rmdir",
        ):
            return
        path = os.fsdecode(arguments[0]) if not isinstance(arguments[0], int) else ""
        # A name alone is one in a directory that is open.
        if not path.startswith(self.directory) and os.path.dirname(path):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if self.operations_left == 0:
            self.is_dead = True
            raise Killed(f"{event} {path}")
        self.operations_left -= 1
        self.last_written = path if event == "open" else ""

    @contextmanager
    def after(self, operations: int, directory: Path, *, torn: bool) -> Iterator[None]:
        """Die after some operations.

        Args:
            torn: Whether what was written last did not get into its file.
        """
        self.operations_left, self.is_dead, self.last_written = operations, False, ""
        self.directory = str(directory)
        try:
            with suppress(Killed):
                yield
        finally:
            self.directory = ""
        if self.is_dead and torn and self.last_written:
            name = os.path.basename(self.last_written)
            last = max(directory.rglob(name), key=lambda path: path.stat().st_mtime_ns)
            os.truncate(last, os.path.getsize(last) // 2)


DEATH = Death()  # audit hooks cannot be taken away again


async def create(directory: Path) -> None:
    """Make the CA of these tests."""
    await create_operator_pki(directory, now=NOW, name="Op")


async def prepare(directory: Path) -> None:
    """Make a CA that has been through everything once."""
    await create(directory)
    await roll_issuing(directory, now=NOW)
    roll_root(directory, now=NOW)
    await renew_signers(directory, now=NOW)


async def survive(
    directory: Path,
    change: Callable[[Path], Awaitable[object]],
    is_done: Callable[[CAKeys], bool],
    torn: bool,
) -> int:
    """Let a change die at each of its file operations; return how many there are.

    At every point the directory is the old CA or the new one, nothing that it held is lost, and running the change
    again leads to the new one: once, and without leavings.
    """
    original = directory / "original"
    await prepare(original)
    finished = directory / "finished"
    shutil.copytree(original, finished)
    await change(finished)
    held = contents(original)
    old = load_ca(original, now=NOW)
    for operations in range(1000):
        copy = directory / str(operations)
        shutil.copytree(original, copy)
        with DEATH.after(operations, copy, torn=torn):
            await change(copy)
        assert held <= contents(copy)
        found = load_ca(copy, now=NOW)
        assert len(expiries(copy)) in (len(expiries(original)), len(expiries(finished)))
        if not is_done(found):
            assert shown(found) == shown(old)
        if not DEATH.is_dead:
            assert is_done(found)
            assert names(copy) == names(finished)
            return operations
        await change(copy)
        again = load_ca(copy, now=NOW)
        assert is_done(again)
        if is_done(found):
            assert shown(again) == shown(found)
        assert names(copy) == names(finished)
        assert held <= contents(copy)
        assert not [path for path in copy.iterdir() if path.is_dir() and "retired" not in path.name]
        shutil.rmtree(copy)
    raise AssertionError("it never ends")


def shown(keys: CAKeys) -> tuple[object, ...]:
    """Return what tells one CA from another."""
    return (
        keys.root,
        [(issuer.certificate, issuer.chain) for issuer in keys.issuers],
        keys.credential.certificate,
        {name: one.certificate for name, one in keys.ocsp.items()},
        keys.root_update,
    )


@pytest.mark.parametrize("torn", [False, True])
async def test_a_rollover_of_the_issuing_ca_survives_death(tmp_path: Path, torn: bool) -> None:
    """At every file operation."""
    operations = await survive(
        tmp_path,
        lambda directory: roll_issuing(directory, now=NOW),
        lambda keys: len(keys.issuers) == 3,
        torn,
    )
    assert operations > 20


@pytest.mark.parametrize("torn", [False, True])
async def test_a_rollover_of_the_root_survives_death(tmp_path: Path, torn: bool) -> None:
    """At every file operation."""

    async def change(directory: Path) -> None:
        roll_root(directory, now=NOW)

    def is_done(keys: CAKeys) -> bool:
        return keys.old_root not in (None, keys.issuers[1].chain[0])

    assert await survive(tmp_path, change, is_done, torn) > 20


@pytest.mark.parametrize("torn", [False, True])
async def test_renewing_signers_survives_death(tmp_path: Path, torn: bool) -> None:
    """At every file operation."""
    before: list[Certificate] = []

    async def change(directory: Path) -> None:
        if not before:
            before.append(read(directory / "cmp.pem"))
        await renew_signers(directory, now=NOW)

    def is_done(keys: CAKeys) -> bool:
        return keys.credential.certificate != before[0]

    assert await survive(tmp_path, change, is_done, torn) > 20


@pytest.mark.parametrize("torn", [False, True])
async def test_making_a_ca_survives_death(tmp_path: Path, torn: bool) -> None:
    """There is no CA until there is all of it."""
    for operations in range(1000):
        directory = tmp_path / str(operations)
        with DEATH.after(operations, directory, torn=torn):
            await create(directory)
        if not DEATH.is_dead:
            assert operations > 10
            return
        is_there = [path.name for path in directory.glob("next.*")] or names(directory) == FILES
        with suppress(ConfigError):
            load_ca(directory, now=NOW)
            assert is_there
        await create(directory)
        assert names(directory) == FILES
        load_ca(directory, now=NOW)
    raise AssertionError("it never ends")


async def test_installing_an_ra_s_credential_survives_death(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is loaded is the old pair, or the new one, or no pair at all; the second attempt is always right."""
    monkeypatch.setattr(ra_credential, "KDF_ROUNDS", 1000)  # the password is not what is tried here
    keys = load_ca(directory, now=NOW)
    gateway = directory.parent / "gateway"
    made = []
    for name in ("old.p12", "new.p12"):
        key = KEY_KINDS["p256"]()
        certificate = await certify_signer(keys.issuers[0], RA, parse_subject(SUBJECT), key, NOW)
        export_pkcs12(directory.parent / name, certificate, key, (), b"password")
        made.append(certificate)

    def install(name: str) -> None:
        path = directory.parent / name
        install_ra(
            path, b"password", certificate_path=gateway / "ra.pem", key_path=gateway / "ra.key"
        )

    def loaded() -> Certificate:
        return load_credential(gateway / "ra.pem", gateway / "ra.key", setting="ra").certificate

    unmatched = 0
    for operations in range(1000):
        shutil.rmtree(gateway, ignore_errors=True)
        gateway.mkdir()
        install("old.p12")
        old = contents(gateway)
        with DEATH.after(operations, gateway, torn=True):
            install("new.p12")
        assert old <= contents(gateway)
        try:
            assert loaded() in made
        except ConfigError:
            unmatched += 1
        if not DEATH.is_dead:
            break
        install("new.p12")
        assert loaded() == made[1]
        assert old <= contents(gateway)
        assert not list(gateway.glob("*.new"))
    assert loaded() == made[1]
    assert unmatched == 1  # between the two renames


async def test_another_command_finishes_what_was_decided(directory: Path) -> None:
    """And then does its own work."""
    await roll_issuing(directory, now=NOW)
    expected = shown(load_ca(directory, now=NOW))
    decided = directory / "next.roll-issuing"
    decided.mkdir()
    for name in sorted(ISSUING_FILES)[:3]:
        (directory / name).rename(decided / name)
    assert shown(load_ca(directory, now=NOW)) == expected
    assert await renew_signers(directory, now=NOW, within_days=30) == ()
    assert not decided.exists()
    assert shown(load_ca(directory, now=NOW)) == expected


async def test_a_key_made_in_an_hsm_by_a_rollover_that_died_is_used(
    directory: Path, softhsm: SoftHSM
) -> None:
    """Its label is taken: asking for it again must not fail. With another label it is left alone."""
    uris = {stem: softhsm.uri(f"rolled-{stem}", token="ca") for stem in ("issuing", "cmp")}
    for operations in range(1000):
        with DEATH.after(operations, directory, torn=False):
            await roll_issuing(directory, now=NOW, key_uris=uris)
        if not DEATH.is_dead or (directory / "making" / "ocsp.key").exists():
            break
    assert (directory / "making" / "cmp.key").read_text() == uris["cmp"] + "\n"
    await roll_issuing(directory, now=NOW, key_uris=uris)
    load_ca(directory, now=NOW)
    assert (directory / "issuing.key").read_text() == uris["issuing"] + "\n"
    with pytest.raises(ConfigError, match="already"):
        await roll_issuing(directory, now=NOW, key_uris=uris)
    assert not (directory / "making").exists()
    assert len(load_ca(directory, now=NOW).issuers) == 2


# --- At the same time -------------------------------------------------------------------------------------------


async def test_a_reader_sees_one_ca_or_the_other(directory: Path) -> None:
    """While it is changed over and over."""
    done = threading.Event()
    seen: list[tuple[object, ...]] = []

    def look() -> None:
        while not done.is_set():
            seen.append(shown(load_ca(directory, now=NOW)))

    made = [shown(load_ca(directory, now=NOW))]
    reading = asyncio.create_task(asyncio.to_thread(look))
    for _ in range(5):
        await roll_issuing(directory, now=NOW)
        made.append(shown(load_ca(directory, now=NOW)))
        roll_root(directory, now=NOW)
        made.append(shown(load_ca(directory, now=NOW)))
        await asyncio.sleep(0)
    done.set()
    await reading
    assert seen
    assert [one for one in seen if one not in made] == []


async def test_two_commands_at_once_do_not_mix(directory: Path) -> None:
    """The second is told to wait."""
    with changing(directory, "roll-root"), pytest.raises(ConfigError, match="another command"):
        await roll_issuing(directory, now=NOW)
    await roll_issuing(directory, now=NOW)
