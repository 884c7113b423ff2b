"""The CA's keys and certificates as files: made, imported, loaded."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from ra_gateway.ca.hierarchy import (
    SIGNERS,
    ca_extensions,
    ca_subject,
    certify_ca,
    certify_signer,
    parse_subject,
)
from ra_gateway.ca.issuer import Issuer
from ra_gateway.ca.keys import Expiry, create_operator_pki, expiries, import_ca, load_ca
from ra_gateway.ca.profiles import RA
from ra_gateway.ca.ra_credential import (
    KDF_ROUNDS,
    export_pkcs12,
    import_pkcs12,
    install_ra,
    issue_ra_certificate,
)
from ra_gateway.ca.rollover import renew_signers
from ra_gateway.cmp.certificates import Certificate, KeyUsage
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.trust import DomainKind, TrustDomain
from ra_gateway.errors import ConfigError
from ra_gateway.keys import (
    KEY_KINDS,
    load_certificates,
    load_credential,
    load_private_key,
    spki_der,
    write_certificates,
    write_private_key,
)
from tests.support.softhsm import SoftHSM

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SUBJECT = "CN=ra1,O=Example Operator"
STEMS = ("root", "issuing", "cmp", "ocsp")


def names(directory: Path) -> set[str]:
    """Return names of all files below a directory."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


@pytest.mark.requirement(154, "T10", "T11", "T30")
@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519", "ed448", "mldsa44"])
async def test_a_ca_is_made_and_loaded(tmp_path: Path, kind: str) -> None:
    """Files, modes, and paths from all signers to the root; certificates, messages and answers have three keys."""
    await create_operator_pki(tmp_path, now=NOW, key_kind=kind)
    ra = await issue_ra_certificate(tmp_path, SUBJECT, now=NOW, key_kind=kind)
    assert names(tmp_path) == {
        f"{stem}.{suffix}" for stem in (*STEMS, "ra") for suffix in ("pem", "key")
    }
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("*.key")} == {0o600}
    keys = load_ca(tmp_path, now=NOW)
    (issuer,) = keys.issuers
    ocsp = keys.ocsp[issuer.id]
    signers = (issuer, keys.credential, ocsp)
    assert len({signer.certificate.spki_der for signer in signers}) == 3
    assert len({item.subject for item in (ra, *(signer.certificate for signer in signers))}) == 4
    for certificate, length in ((keys.root, 1), (issuer.certificate, 0)):
        found = x509.load_der_x509_certificate(certificate.der).extensions
        constraints = found.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value) == (
            True,
            x509.BasicConstraints(True, length),
        )
        usage = found.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert certificate.key_usage == frozenset({KeyUsage.keyCertSign, KeyUsage.cRLSign})
    domain = TrustDomain("operator", DomainKind.operator, (keys.root,))
    bag = (issuer.certificate,)
    for certificate in (keys.credential.certificate, ocsp.certificate):
        domain.find_path(certificate, bag, NOW)
    domain.find_path(ra, bag, NOW + timedelta(days=1000))
    assert keys.credential.certificate.extended_key_usage == {OID.cmcCA}
    assert ocsp.certificate.extended_key_usage == {OID.ocspSigning}
    assert ra.extended_key_usage == {OID.cmcRA}
    assert (keys.root_update, keys.old_root) == (None, None)
    credential = load_credential(tmp_path / "ra.pem", tmp_path / "ra.key", setting="ra")
    assert credential.certificate == ra
    assert credential.chain == keys.credential.chain == ocsp.chain == bag
    # ra.pem has the issuing CA, and the configuration that `init` writes names its file besides.
    again = (tmp_path / "issuing.pem", tmp_path / "root.pem", tmp_path / "ra.pem")
    named = load_credential(
        tmp_path / "ra.pem", tmp_path / "ra.key", chain_paths=again, setting="ra"
    )
    assert named.certificates == credential.certificates == (ra.der, issuer.certificate.der)


async def test_openssl_agrees(tmp_path: Path) -> None:
    """Somebody else's path validation, with every strict check it has."""
    await create_operator_pki(tmp_path, now=datetime.now(UTC))
    await issue_ra_certificate(tmp_path, SUBJECT, now=datetime.now(UTC))
    for name in ("cmp.pem", "ocsp.pem", "ra.pem"):
        subprocess.run(
            f"openssl verify -x509_strict -CAfile root.pem -untrusted issuing.pem {name}".split(),
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )


async def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """One file that exists stops it before the first is written, and the problem names it."""
    (tmp_path / "cmp.key").write_text("precious")
    with pytest.raises(ConfigError, match=r"cmp\.key: exists already"):
        await create_operator_pki(tmp_path, now=NOW)
    assert names(tmp_path) == {"cmp.key"}
    (tmp_path / "cmp.key").unlink()
    await create_operator_pki(tmp_path, now=NOW)
    with pytest.raises(ConfigError, match=r"root\.pem: exists already"):
        await create_operator_pki(tmp_path, now=NOW)
    await issue_ra_certificate(tmp_path, SUBJECT, now=NOW)
    with pytest.raises(ConfigError, match="exists already"):
        await issue_ra_certificate(tmp_path, SUBJECT, now=NOW)


async def test_an_ra_s_files_may_go_elsewhere(tmp_path: Path) -> None:
    """Under a name with a dot in it, too."""
    await create_operator_pki(tmp_path / "ca", now=NOW)
    await issue_ra_certificate(
        tmp_path / "ca", SUBJECT, now=NOW, target=tmp_path / "ra", stem="ra1.example"
    )
    assert names(tmp_path / "ra") == {"ra1.example.pem", "ra1.example.key"}


async def test_keys_can_be_encrypted(tmp_path: Path) -> None:
    """With the password they load, without it they do not."""
    await create_operator_pki(tmp_path, now=NOW, password=b"secret")
    await issue_ra_certificate(tmp_path, SUBJECT, now=NOW, ca_password=b"secret")
    load_ca(tmp_path, now=NOW, password=b"secret")
    with pytest.raises(ConfigError) as raised:
        load_ca(tmp_path, now=NOW)
    assert "secret" not in str(raised.value)


async def test_files_of_two_cas_are_refused(tmp_path: Path) -> None:
    """Same names, other keys."""
    for name in ("one", "two"):
        await create_operator_pki(tmp_path / name, now=NOW)
    for stem in ("root.pem",), ("cmp.pem", "cmp.key"), ("ocsp.pem", "ocsp.key"):
        mixed = tmp_path / stem[0]
        shutil.copytree(tmp_path / "one", mixed)
        for name in stem:
            shutil.copy(tmp_path / "two" / name, mixed / name)
        with pytest.raises(ConfigError, match="was not issued by"):
            load_ca(mixed, now=NOW)


@pytest.mark.requirement(154, "T30")
@pytest.mark.parametrize("stem", ["cmp", "ocsp"])
async def test_one_key_for_certificates_and_messages_is_refused(tmp_path: Path, stem: str) -> None:
    """RFC 9810 8.6."""
    await create_operator_pki(tmp_path, now=NOW)
    root_key = load_private_key(tmp_path / "root.key", None, "root")
    key = load_private_key(tmp_path / f"{stem}.key", None, stem)
    root = load_certificates(tmp_path / "root.pem", "root")[0]
    issuing = certified(ca_subject("Example Operator", "Issuing CA"), key, root, root_key)
    issuer = Issuer(issuing, (root,), key, secrets.token_bytes)
    shutil.copy(tmp_path / f"{stem}.key", tmp_path / "issuing.key")
    made = {"issuing": issuing}
    for name, profile in SIGNERS.items():
        signer_key = load_private_key(tmp_path / f"{name}.key", None, name)
        made[name] = await certify_signer(issuer, profile, ca_subject("X", name), signer_key, NOW)
    for name, certificate in made.items():
        (tmp_path / f"{name}.pem").unlink()
        write_certificates(tmp_path / f"{name}.pem", (certificate,))
    with pytest.raises(ConfigError, match=rf"{stem}\.key and issuing\.key .*RFC 9810"):
        load_ca(tmp_path, now=NOW)


async def test_other_mistakes_say_what_to_do(tmp_path: Path) -> None:
    """An unknown kind of key, names that are none, a directory without a CA or that cannot be written to."""
    with pytest.raises(ConfigError, match="p256"):
        await create_operator_pki(tmp_path, now=NOW, key_kind="dsa")
    with pytest.raises(ConfigError, match="no subject"):
        await create_operator_pki(tmp_path, now=NOW, name="x" * 65)
    with pytest.raises(ConfigError, match=r"no subject .*U\+202E"):
        await create_operator_pki(tmp_path, now=NOW, name="Operator\u202e")
    with pytest.raises(ConfigError, match=r"root\.pem"):
        load_ca(tmp_path, now=NOW)
    with pytest.raises(ConfigError, match="no key of this name"):
        await create_operator_pki(tmp_path / "ca", now=NOW, key_uris={"isuing": "pkcs11:"})
    assert names(tmp_path) == set()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        await create_operator_pki(tmp_path / "file" / "ca", now=NOW)
    await create_operator_pki(tmp_path / "ca", now=NOW)
    with pytest.raises(ConfigError, match="no name"):
        await issue_ra_certificate(tmp_path / "ca", "ra1", now=NOW)
    with pytest.raises(ConfigError, match="cannot be certified: attribute C is no country code"):
        await issue_ra_certificate(tmp_path / "ca", "CN=ra1,C=D1", now=NOW)


async def test_what_has_expired_is_refused(tmp_path: Path) -> None:
    """At the start, and each certificate with the command that helps."""
    await create_operator_pki(tmp_path, now=NOW)
    listed = expiries(tmp_path)
    assert [item.file for item in listed] == ["ocsp.pem", "cmp.pem", "issuing.pem", "root.pem"]
    assert listed[0] == Expiry(
        "ocsp.pem", "CN=Example Operator OCSP,O=Example Operator", NOW + timedelta(days=365)
    )
    with pytest.raises(ConfigError, match=r"OCSP.*renew-signers"):
        load_ca(tmp_path, now=NOW + timedelta(days=366))
    with pytest.raises(ConfigError, match=r"Root CA.*create OTHER") as raised:
        load_ca(tmp_path, now=NOW + timedelta(days=21 * 365))
    assert len(raised.value.problems) == 4
    assert "roll-issuing" in str(raised.value)


async def test_a_directory_of_an_older_version_gets_its_ocsp_signer(tmp_path: Path) -> None:
    """The error names the command, and the command makes just what is missing."""
    await create_operator_pki(tmp_path, now=NOW)
    for name in ("ocsp.pem", "ocsp.key"):
        (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match="Run: ra-gateway ca renew-signers"):
        load_ca(tmp_path, now=NOW)
    before = (tmp_path / "cmp.pem").read_bytes()
    assert await renew_signers(tmp_path, now=NOW, within_days=30) == ("ocsp.pem",)
    (issuer,) = load_ca(tmp_path, now=NOW).issuers
    subject = load_ca(tmp_path, now=NOW).ocsp[issuer.id].certificate.subject
    assert subject == "CN=Example Operator OCSP,O=Example Operator"
    assert (tmp_path / "cmp.pem").read_bytes() == before


async def test_keys_can_be_in_an_hsm(tmp_path: Path, softhsm: SoftHSM) -> None:
    """All four, and the RA's; the files name them, and nothing else differs."""
    uris = {stem: softhsm.uri(f"keys-{stem}", token="ca") for stem in STEMS}
    await create_operator_pki(tmp_path, now=NOW, key_uris=uris)
    assert {stem: (tmp_path / f"{stem}.key").read_text().strip() for stem in STEMS} == uris
    uri = softhsm.uri("keys-ra", token="ca")
    ra = await issue_ra_certificate(tmp_path, SUBJECT, now=NOW, key_uri=uri)
    keys = load_ca(tmp_path, now=NOW)
    domain = TrustDomain("operator", DomainKind.operator, (keys.root,))
    domain.find_path(ra, (keys.issuers[0].certificate,), NOW)
    key = load_private_key(tmp_path / "ra.key", None, "ra")
    with pytest.raises(ConfigError, match="never leaves the HSM"):
        export_pkcs12(tmp_path / "ra.p12", ra, key, (), b"password")


# --- Import -----------------------------------------------------------------------------------------------------


def certified(
    name: bytes,
    key: Any,
    issuer: Certificate | None,
    issuer_key: Any,
    *,
    path_length: int | None = None,
    not_after: datetime = NOW + timedelta(days=3650),
) -> Certificate:
    """Return a CA certificate as another product makes it: its key identifier is not ours."""
    return certify_ca(
        name,
        spki_der(key),
        issuer,
        issuer_key,
        not_before=NOW - timedelta(days=1),
        not_after=not_after,
        extensions=ca_extensions(path_length),
        subject_key_identifier=name[-8:],
    )


class Foreign:
    """An operator's CA of three levels, in files.

    Args:
        middle_length: pathLenConstraint of the CA in the middle.
    """

    def __init__(self, directory: Path, middle_length: int | None = 0) -> None:
        self.keys = {level: KEY_KINDS["p384"]() for level in ("root", "middle", "issuing")}
        root = certified(ca_subject("Op", "1"), self.keys["root"], None, self.keys["root"])
        middle = certified(
            ca_subject("Op", "2"),
            self.keys["middle"],
            root,
            self.keys["root"],
            path_length=middle_length,
        )
        issuing = certified(
            ca_subject("Op", "3"), self.keys["issuing"], middle, self.keys["middle"]
        )
        self.certificates = {"root": root, "middle": middle, "issuing": issuing}
        self.directory = directory
        for level, certificate in self.certificates.items():
            write_certificates(directory / f"{level}.pem", (certificate,))
            write_private_key(directory / f"{level}.key", self.keys[level], b"theirs")

    async def imported(self, level: str, *chain: str, now: datetime = NOW) -> Path:
        """Import one of the three."""
        directory = self.directory / "ca"
        await import_ca(
            directory,
            now=now,
            certificate_path=self.directory / f"{level}.pem",
            key_path=self.directory / f"{level}.key",
            chain_paths=tuple(self.directory / f"{name}.pem" for name in chain),
            key_password=b"theirs",
            password=b"ours",
        )
        return directory


async def test_an_issuing_ca_is_imported(tmp_path: Path) -> None:
    """With its chain in whatever order, and with signers of its own kind of key below it."""
    foreign = Foreign(tmp_path, middle_length=1)
    directory = await foreign.imported("issuing", "root", "middle")
    keys = load_ca(directory, now=NOW, password=b"ours")
    expected = foreign.certificates
    (issuer,) = keys.issuers
    assert keys.root == expected["root"]
    assert issuer.certificate == expected["issuing"]
    assert issuer.chain == (expected["middle"], expected["root"])
    assert keys.credential.chain == (expected["issuing"], expected["middle"])
    assert keys.credential.certificate.public_key.curve.name == "secp384r1"  # type: ignore[union-attr]
    assert keys.credential.certificate.subject == "CN=Op 3 CMP,O=Op"
    domain = TrustDomain("operator", DomainKind.operator, (keys.root,))
    domain.find_path(keys.credential.certificate, keys.credential.chain, NOW)
    assert names(directory) == {
        f"{stem}.{suffix}" for stem in STEMS for suffix in ("pem", "key")
    } - {"root.key"}
    with pytest.raises(ConfigError, match="exists already"):
        await foreign.imported("issuing", "root", "middle")


async def test_a_root_that_issues_itself_is_imported(tmp_path: Path) -> None:
    """It is its own chain."""
    foreign = Foreign(tmp_path)
    keys = load_ca(await foreign.imported("root"), now=NOW, password=b"ours")
    (issuer,) = keys.issuers
    assert issuer.certificate == keys.root == foreign.certificates["root"]
    assert (issuer.chain, keys.credential.chain) == ((), ())
    domain = TrustDomain("operator", DomainKind.operator, (keys.root,))
    domain.find_path(keys.ocsp[issuer.id].certificate, (), NOW)


async def test_an_hsm_s_key_stays_there_on_import(tmp_path: Path, softhsm: SoftHSM) -> None:
    """The file names it as before, with the PIN file where it was."""
    shutil.copy(softhsm.pin_path, tmp_path / "pin")
    uri = softhsm.uri("imported", token="ca")
    await create_operator_pki(tmp_path / "old", now=NOW, key_uris={"issuing": uri})
    relative = uri.replace(f"file:{softhsm.pin_path}", "file:pin")
    (tmp_path / "theirs.key").write_text(relative + "\n")
    await import_ca(
        tmp_path / "ca",
        now=NOW,
        certificate_path=tmp_path / "old" / "issuing.pem",
        key_path=tmp_path / "theirs.key",
        chain_paths=(tmp_path / "old" / "root.pem",),
    )
    expected = uri.replace(str(softhsm.pin_path), str(tmp_path / "pin"))
    assert (tmp_path / "ca" / "issuing.key").read_text() == expected + "\n"
    load_ca(tmp_path / "ca", now=NOW)


async def test_what_is_no_ca_is_not_imported(tmp_path: Path) -> None:
    """Each reason in a sentence, and no file is left behind."""
    foreign = Foreign(tmp_path)
    with pytest.raises(ConfigError, match=r"no way .* to a root"):
        await foreign.imported("issuing", "middle")
    with pytest.raises(ConfigError, match=r"allows 0 CAs below it"):
        await foreign.imported("issuing", "middle", "root")
    with pytest.raises(ConfigError, match="valid from"):
        await foreign.imported("issuing", "middle", "root", now=NOW + timedelta(days=4000))
    shutil.copy(tmp_path / "middle.key", tmp_path / "issuing.key")
    with pytest.raises(ConfigError, match="another key"):
        await foreign.imported("issuing", "middle", "root")
    ca = tmp_path / "other"
    await create_operator_pki(ca, now=NOW)
    with pytest.raises(ConfigError, match="basicConstraints"):
        await import_ca(
            tmp_path / "ca", now=NOW, certificate_path=ca / "cmp.pem", key_path=ca / "cmp.key"
        )
    assert not (tmp_path / "ca").exists()


# --- An RA's credential -----------------------------------------------------------------------------------------


async def ra_p12(directory: Path, *, kind: str = "p256", name: str = "ra.p12") -> Certificate:
    """Make a CA if there is none, and an RA's PKCS#12 file."""
    if not (directory / "ca").exists():
        await create_operator_pki(directory / "ca", now=NOW)
    issuer = load_ca(directory / "ca", now=NOW).issuers[0]
    key = KEY_KINDS[kind]()
    certificate = await certify_signer(issuer, RA, parse_subject(SUBJECT), key, NOW)
    chain = (*reversed(issuer.chain), issuer.certificate)
    export_pkcs12(directory / name, certificate, key, chain, b"on its way")
    return certificate


@pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519"])
async def test_pkcs12_carries_an_ra_s_credential(tmp_path: Path, kind: str) -> None:
    """Strong, closed to others, and the chain comes out in order."""
    certificate = await ra_p12(tmp_path, kind=kind)
    path = tmp_path / "ra.p12"
    assert path.stat().st_mode & 0o777 == 0o600
    found, chain, key = import_pkcs12(path, b"on its way")
    issuer = load_ca(tmp_path / "ca", now=NOW).issuers[0]
    assert (found, chain) == (certificate, (issuer.certificate, *issuer.chain))
    assert spki_der(key) == certificate.spki_der
    shown = subprocess.run(
        ["openssl", "pkcs12", "-in", "ra.p12", "-passin", "pass:on its way", "-info", "-noenc"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert shown.stdout.count("BEGIN CERTIFICATE") == 3
    assert shown.stdout.count("BEGIN PRIVATE KEY") == 1
    assert "PBES2, PBKDF2, AES-256-CBC, Iteration 600000, PRF hmacWithSHA256" in shown.stderr
    assert "MAC: sha256" in shown.stderr
    with pytest.raises(ConfigError, match="exists already"):
        await ra_p12(tmp_path, kind=kind)


@pytest.mark.parametrize(
    "options",
    [
        ("-iter", "4097"),
        ("-iter", "4097", "-v1", "PBE-SHA1-3DES"),
        ("-scrypt", "-scrypt_N", "8192"),
    ],
    ids=["PBKDF2", "PKCS#12", "scrypt"],
)
def test_a_key_that_takes_too_long_to_open_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """Whoever made the file chose the iterations; they are looked at before anything is computed."""
    write_private_key(tmp_path / "key", KEY_KINDS["p256"]())
    path = tmp_path / "dear.key"
    command = ["openssl", "pkcs8", "-topk8", "-passout", "pass:x", "-in", str(tmp_path / "key")]
    subprocess.run([*command, "-out", str(path), *options], check=True, capture_output=True)
    load_private_key(path, b"x", "key")
    monkeypatch.setattr("ra_gateway.keys.MAX_ITERATIONS", 4096)
    monkeypatch.setattr("ra_gateway.keys.load_pem_private_key", lambda *_: pytest.fail("opened"))
    with pytest.raises(ConfigError, match="more than 4096 iterations"):
        load_private_key(path, b"x", "key")


async def test_pkcs12_that_takes_too_long_to_open_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the iterations of its contents and by those of its MAC, whichever are too many."""
    await ra_p12(tmp_path)
    whole = (tmp_path / "ra.p12").read_bytes()
    rounds = b"\x02\x03" + KDF_ROUNDS.to_bytes(3, "big")
    places = [found.start() for found in re.finditer(re.escape(rounds), whole)]
    assert len(places) >= 2
    monkeypatch.setattr("ra_gateway.keys.MAX_ITERATIONS", KDF_ROUNDS)
    import_pkcs12(tmp_path / "ra.p12", b"on its way")
    monkeypatch.setattr(
        "ra_gateway.ca.ra_credential.pkcs12.load_pkcs12", lambda *_: pytest.fail("opened")
    )
    for at in places:
        dear = tmp_path / f"{at}.p12"
        dear.write_bytes(whole[: at + 4] + bytes([whole[at + 4] + 1]) + whole[at + 5 :])
        with pytest.raises(ConfigError, match="more than 600000 iterations"):
            import_pkcs12(dear, b"on its way")


async def test_broken_pkcs12_is_refused(tmp_path: Path) -> None:
    """A wrong password, another file, and an empty password at export."""
    certificate = await ra_p12(tmp_path)
    path = tmp_path / "ra.p12"
    with pytest.raises(ConfigError, match="wrong password"):
        import_pkcs12(path, b"wrong")
    with pytest.raises(ConfigError, match="not PKCS#12"):
        import_pkcs12(tmp_path / "ca" / "root.pem", b"")
    with pytest.raises(ConfigError, match="cannot be read"):
        import_pkcs12(tmp_path / "none", b"")
    _, _, key = import_pkcs12(path, b"on its way")
    with pytest.raises(ConfigError, match="password: is empty"):
        export_pkcs12(tmp_path / "new", certificate, key, (), b"")


@pytest.mark.parametrize("files", [("ra.pem", "ra.key"), ("ra.both", "ra.both")])
async def test_an_ra_s_credential_is_installed(tmp_path: Path, files: tuple[str, str]) -> None:
    """Twice: the second time what was there is kept under another name."""
    certificate_path, key_path = (tmp_path / name for name in files)
    made = []
    for round_ in range(2):
        name = f"{round_}.p12"
        made.append(await ra_p12(tmp_path, name=name))
        installed = install_ra(
            tmp_path / name,
            b"on its way",
            certificate_path=certificate_path,
            key_path=key_path,
            key_password=b"key",
        )
        assert installed == made[-1]
        credential = load_credential(certificate_path, key_path, password=b"key", setting="ra")
        assert credential.certificate == made[-1]
        assert len(credential.chain) == 1
        assert key_path.stat().st_mode & 0o777 == 0o600
    old = load_credential(
        tmp_path / f"{files[0]}.1", tmp_path / f"{files[1]}.1", password=b"key", setting="ra"
    )
    assert old.certificate == made[0]
    assert not list(tmp_path.glob("*.new"))
