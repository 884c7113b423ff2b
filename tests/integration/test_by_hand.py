"""Requests that were carried to the CA: `ca sign`, `ca cross-sign` and `ca root-crl`, with openssl beside them."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from ra_gateway.ca.hierarchy import ca_extensions, certify_ca
from ra_gateway.keys import load_certificates, load_private_key, spki_der, write_certificates
from tests.support.commandline import run, succeeded
from tests.support.crls import make_crl
from tests.support.pki import KeyKind, PrivateKey, VendorPKI, make_key, make_root
from tests.support.setups import edit, make_setup

FQDN: Final = "seg1.example.net"


@pytest.fixture
def config(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    return make_setup(tmp_path / "site", vendors={"acme": vendor_pki})


def write_request(
    path: Path, subject: str, *extensions: x509.ExtensionType, key: KeyKind | PrivateKey = "p256"
) -> Path:
    """Write a PKCS #10 in PEM."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name.from_rfc4514_string(subject)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    private_key: Any = make_key(key) if isinstance(key, str) else key
    made = builder.sign(private_key, hashes.SHA256())
    path.write_bytes(made.public_bytes(Encoding.PEM))
    return path


def openssl(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)


# --- end entities (7.2) -----------------------------------------------------------------------------------------


@pytest.mark.requirement("T25")
@pytest.mark.parametrize("encoding", ["PEM", "DER"])
def test_a_request_is_signed(encoding: str, config: Path, tmp_path: Path) -> None:
    """By the profile asked for; it is in the ledger, can be revoked, and openssl finds its path."""
    names = x509.SubjectAlternativeName([x509.DNSName(FQDN)])
    request = write_request(tmp_path / "seg.csr", f"CN={FQDN},O=Example Operator", names)
    if encoding == "DER":
        der = x509.load_pem_x509_csr(request.read_bytes()).public_bytes(Encoding.DER)
        request.write_bytes(der)
    out = tmp_path / "seg.pem"
    told = succeeded("ca", "sign", request, "--out", out, "--profile", "seg", "--config", config)
    certificate = load_certificates(out, "out")[0]
    serial = f"{certificate.serial_number:x}"
    assert serial in told
    assert f"confirmed\t{FQDN}" in told or f"CN={FQDN}" in told
    root = config.parent / "ca" / "root.pem"
    verified = openssl("verify", "-CAfile", root, "-untrusted", out, out)
    assert verified.returncode == 0, verified.stderr
    assert "confirmed" in succeeded("ca", "show", serial, "--config", config)
    succeeded("ca", "revoke", serial, "--reason", "superseded", "--config", config)
    assert "agree" in succeeded("ca", "verify", "--config", config)


@pytest.mark.requirement("T25")
def test_its_names_are_the_operators_to_give(config: Path, tmp_path: Path) -> None:
    """Subject and SubjectAltName of the command line take the place of the request's."""
    factory = x509.SubjectAlternativeName([x509.DNSName("factory.example.net")])
    request = write_request(tmp_path / "seg.csr", "CN=factory", factory)
    out = tmp_path / "seg.pem"
    options = ["--subject", f"CN={FQDN},O=Example Operator", "--san", f"dns:{FQDN}", "--days", "30"]
    succeeded("ca", "sign", request, "--out", out, *options, "--config", config)
    (found, *_) = x509.load_pem_x509_certificates(out.read_bytes())
    assert found.subject.rfc4514_string() == f"CN={FQDN},O=Example Operator"
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(FQDN)]
    assert (found.not_valid_after_utc - found.not_valid_before_utc).days == 30


@pytest.mark.requirement("T12", "T25")
def test_what_it_lacks_is_supplied_as_to_a_device(config: Path, tmp_path: Path) -> None:
    """A SubjectAltName of the CN, where it is an FQDN and the profile demands one."""
    request, out = write_request(tmp_path / "a.csr", f"CN={FQDN},O=Op"), tmp_path / "seg.pem"
    options = ("--profile", "seg", "--config", config)
    succeeded("ca", "sign", request, "--out", out, *options)
    (found, *_) = x509.load_pem_x509_certificates(out.read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.DNSName(FQDN)]
    nameless = write_request(tmp_path / "b.csr", "CN=seg1,O=Op")
    ended = run("ca", "sign", nameless, "--out", tmp_path / "b.pem", *options)
    assert "no SubjectAltName, which seg demands" in ended.stderr


@pytest.mark.requirement("T25", 65)
@pytest.mark.parametrize(
    "case",
    [
        "proof",
        "ca",
        "long name",
        "weak key",
        "no request",
        "two",
        "profile",
        "of the PKI",
        "one label",
    ],
)
def test_a_request_that_is_refused(case: str, config: Path, tmp_path: Path) -> None:
    """With the reason; no file, and nothing in the ledger."""
    path = tmp_path / "x.csr"
    options: list[str] = []
    match case:
        case "ca":
            write_request(path, "CN=x,O=y", x509.BasicConstraints(True, None))
        case "long name":
            write_request(path, f"CN={'x' * 64},O=y,OU={'u' * 64}")
            options = ["--subject", f"CN={FQDN},OU={'u' * 65}"]
        case "weak key":
            write_request(path, "CN=x,O=y", key="rsa1024")
        case "no request":
            path.write_bytes(b"hello")
        case _:
            write_request(path, f"CN={FQDN},O=y", x509.SubjectAlternativeName([x509.DNSName(FQDN)]))
    if case == "proof":
        der = bytearray(x509.load_pem_x509_csr(path.read_bytes()).public_bytes(Encoding.DER))
        der[-1] ^= 1
        path.write_bytes(der)
    elif case == "two":
        path.write_bytes(2 * path.read_bytes())
    elif case == "profile":
        options = ["--profile", "absent"]
    elif case == "of the PKI":
        options = ["--profile", "ra"]
    elif case == "one label":
        options = ["--san", "dns:seg1"]
    out = tmp_path / "x.pem"
    ended = run("ca", "sign", path, "--out", out, *options, "--config", config)
    assert ended.exit_code == 2
    said = {
        "proof": "signature does not verify",
        "ca": "basicConstraints",
        "long name": "OU",
        "weak key": "RSA",
        "no request": "is refused",
        "two": "one by one",
        "profile": "is no profile",
        "of the PKI": "--profile: ra is for the PKI's own",
        "one label": "has a host that is not fully qualified",
    }
    assert said[case] in ended.stderr
    assert not out.exists()
    assert len(succeeded("ca", "list", "--config", config).splitlines()) <= 1


@pytest.mark.requirement("T25")
def test_a_key_is_one_end_entitys(config: Path, tmp_path: Path) -> None:
    """Also by hand; unless ca.unique_key says otherwise."""
    request = write_request(tmp_path / "a.csr", f"CN={FQDN},O=y")
    other = ("--subject", "CN=seg2.example.net,O=y", "--config", config)
    succeeded("ca", "sign", request, "--out", tmp_path / "a.pem", "--config", config)
    ended = run("ca", "sign", request, "--out", tmp_path / "b.pem", *other)
    assert ended.exit_code == 2
    assert "another end entity holds a valid certificate for this key" in ended.stderr
    edit(config, "\n[ca]\n", "\n[ca]\nunique_key = false\n")
    succeeded("ca", "sign", request, "--out", tmp_path / "b.pem", *other)


# --- other operators' CAs (7.3) ---------------------------------------------------------------------------------

PERMITS: Final = {
    "dot": ".",
    "nothing": "dns:",
    "address": "10.0.0.0",
    "blank": "op2 example",
    "kind": "ip:x.y",
}
CRL_URL: Final = "http://pki.example.net/crl/root.crl"


@pytest.mark.requirement("T26")
def test_another_operators_ca_is_certified_and_revoked(tmp_path: Path) -> None:
    """openssl takes what that CA issues below this root, within the names permitted, until the root's CRL says no."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    theirs.mkdir()
    key, request = theirs / "ca.key", theirs / "ca.csr"
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", key, "-subj", "/O=Op Two/CN=Op Two SEG CA", "-out", request)  # fmt: skip
    told = succeeded(
        "ca", "cross-sign", ours, request, "--crl-url", CRL_URL, "--permit", "op2.example"
    )
    (cross,) = (ours / "cross").iterdir()
    assert str(cross) in told
    certificate = x509.load_pem_x509_certificate(cross.read_bytes())
    extensions = certificate.extensions
    constraints = extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(True, 0))
    points = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert points[0].full_name == [x509.UniformResourceIdentifier(CRL_URL)]
    names = extensions.get_extension_for_class(x509.NameConstraints)
    assert (names.critical, names.value.permitted_subtrees) == (True, [x509.DNSName("op2.example")])
    for name, allowed in (("seg.op2.example", True), ("seg.op1.example", False)):
        leaf = theirs / f"{name}.pem"
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-keyout", theirs / "leaf.key", "-subj", f"/CN={name}", "-out", theirs / "leaf.csr",
                "-addext", f"subjectAltName=DNS:{name}")  # fmt: skip
        openssl("x509", "-req", "-in", theirs / "leaf.csr", "-CA", cross, "-CAkey", key,
                "-copy_extensions", "copy", "-days", "30", "-out", leaf)  # fmt: skip
        verified = openssl("verify", "-CAfile", ours / "root.pem", "-untrusted", cross, leaf)
        assert (verified.returncode == 0) is allowed, verified.stderr
    serial = f"{certificate.serial_number:x}"
    assert "0 revoked" in succeeded("ca", "root-crl", ours, "--first")
    assert "1 revoked" in succeeded(
        "ca", "root-crl", ours, "--revoke", serial, "--reason", "cessationOfOperation"
    )
    assert "1 revoked" in succeeded("ca", "root-crl", ours)  # it stays
    crl = x509.load_der_x509_crl((ours / "root.crl").read_bytes())
    (entry,) = crl
    reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    assert reason is x509.ReasonFlags.cessation_of_operation
    pem = theirs / "root.crl.pem"
    pem.write_bytes(crl.public_bytes(Encoding.PEM))
    checked = openssl("verify", "-CAfile", ours / "root.pem", "-CRLfile", pem, "-crl_check", cross)
    assert "certificate revoked" in checked.stderr
    assert "root.crl" in succeeded("ca", "expiries", ours)


@pytest.mark.requirement("T26")
def test_a_cross_certificate_keeps_to_its_root(tmp_path: Path) -> None:
    """To how many CAs may be below it, and to its validity; what the request says of a CA's powers is no matter."""
    ours, began = tmp_path / "ours", datetime.now(UTC).replace(microsecond=0)
    succeeded("ca", "create", ours, "--organisation", "Op One")
    root = make_root("CN=Op One Root,O=Op One", path_length=1, not_before=began,
                     not_after=began + timedelta(days=100))  # fmt: skip
    root.write(ours, "root")
    request = write_request(
        tmp_path / "ca.csr", "CN=SEG CA,O=Op Two", x509.BasicConstraints(True, None)
    )
    sign = ("ca", "cross-sign", ours, request, "--crl-url", CRL_URL)
    ended = run(*sign, "--path-length", "1")
    assert ended.exit_code == 2
    assert "allows 1 CAs below it" in ended.stderr
    succeeded(*sign)
    (cross,) = (ours / "cross").iterdir()
    found = x509.load_pem_x509_certificate(cross.read_bytes())
    assert found.not_valid_before_utc >= began
    assert found.not_valid_after_utc == root.certificate.not_valid_after_utc


@pytest.mark.requirement("T26")
def test_a_second_cross_certificate_of_a_key_is_told(tmp_path: Path) -> None:
    """Until the first is revoked; `ca expiries` lists the last of each key that is not."""
    ours = tmp_path / "ours"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    one, two = (
        write_request(tmp_path / f"{number}.csr", f"CN=SEG CA {number},O=Op Two") for number in "12"
    )
    ldap = "ldap://ldap.example.net/cn=root,o=Op%20One?certificateRevocationList;binary"
    sign = ("ca", "cross-sign", ours)
    assert "already" not in succeeded(*sign, one, "--crl-url", CRL_URL, "--days", "30")
    (first,) = (ours / "cross").iterdir()
    told = succeeded(*sign, two, "--crl-url", ldap, "--days", "60")
    assert "already" not in told
    root_id = load_certificates(ours / "root.pem", "root")[0].subject_key_identifier
    assert root_id is not None
    assert f"with {root_id.hex()} for {{issuer}}" in told
    listed = succeeded("ca", "expiries", ours)
    assert f"cross/{first.name}" in listed
    assert listed.count("cross/") == 2
    told = succeeded(*sign, one, "--crl-url", CRL_URL, "--days", "90")
    assert f"The same key has cross/{first.name} already" in told
    assert f"ca root-crl {ours} --revoke {first.stem}" in told
    listed = succeeded("ca", "expiries", ours)
    assert (listed.count("cross/"), first.name in listed) == (2, False)
    revoke = ("ca", "root-crl", ours, "--revoke", first.stem, "--reason", "superseded")
    succeeded(*revoke, "--first")
    told = succeeded(*sign, one, "--crl-url", CRL_URL, "--days", "90")
    assert told.count("already") == 1
    assert first.name not in told


@pytest.mark.requirement("T26")
@pytest.mark.parametrize(
    "url",
    ["https://a.example.net/r.crl", "http:///r.crl", "http://a.example.net/{issuer}.crl", "http://a b/r.crl",
     "http://a.example.net:99999/r.crl", "http://a.example.net/<r>", "ftp://a.example.net/r.crl", ""],
)  # fmt: skip
def test_no_url_of_a_roots_crl(tmp_path: Path, url: str) -> None:
    """The root has one CRL; what is no URL for a certificate elsewhere is none here."""
    ours = tmp_path / "ours"
    succeeded("ca", "create", ours)
    request = write_request(tmp_path / "1.csr", "CN=SEG CA,O=Op Two")
    ended = run("ca", "cross-sign", ours, request, "--crl-url", url)
    assert ended.exit_code == 2
    assert "--crl-url: holds " in ended.stderr
    assert not (ours / "cross").exists()


@pytest.mark.requirement("T26")
@pytest.mark.parametrize(
    "lost",
    [
        "nothing",
        "crl",
        "crl older",
        "copies",
        "newest copy",
        "older copy",
        "all",
    ],
)
def test_the_roots_crl_goes_on_from_what_it_said_before(tmp_path: Path, lost: str) -> None:
    """A file that was lost or put back loses no revocation and no number; without any, somebody has to say so."""
    ours = tmp_path / "ours"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    crl, copies = ours / "root.crl", ours / "retired-crls"
    request = write_request(tmp_path / "1.csr", "CN=SEG CA,O=Op Two")
    assert "--first" in succeeded("ca", "cross-sign", ours, request, "--crl-url", CRL_URL)
    serial = next((ours / "cross").iterdir()).stem
    assert "--first" in run("ca", "root-crl", ours).stderr
    succeeded("ca", "root-crl", ours, "--first")
    oldest = crl.read_bytes()
    assert "already" in run("ca", "root-crl", ours, "--first").stderr
    succeeded("ca", "root-crl", ours, "--revoke", serial, "--reason", "cACompromise")
    number = crl_number(crl)
    if lost == "crl older":
        crl.write_bytes(oldest)
    elif lost in ("crl", "all"):
        crl.unlink()
    if lost in ("copies", "all"):
        shutil.rmtree(copies)
    elif lost == "newest copy":
        shutil.rmtree(copies / "2")
    elif lost == "older copy":
        shutil.rmtree(copies / "1")
    if lost == "all":
        assert "if there never was one: --first" in run("ca", "root-crl", ours).stderr
        return
    assert f"cross/{serial}" not in succeeded("ca", "expiries", ours)
    assert "1 revoked" in succeeded("ca", "root-crl", ours)
    again = run("ca", "root-crl", ours, "--revoke", serial, "--reason", "superseded")
    assert (again.exit_code, "is listed already" in again.stderr) == (2, True)
    assert crl_number(crl) > number


@pytest.mark.requirement("T26")
def test_a_crl_that_the_root_did_not_sign_is_none(tmp_path: Path) -> None:
    """Nothing is taken from it, and it is not replaced."""
    ours = tmp_path / "ours"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    root = x509.load_pem_x509_certificate((ours / "root.pem").read_bytes())
    forger, crl = make_root("CN=Forger"), ours / "root.crl"
    crl.write_bytes(make_crl(forger, this_update=datetime.now(UTC), number=99, issuer=root.subject))
    refused = run("ca", "root-crl", ours)
    assert refused.exit_code == 2
    assert "is no CRL of a root" in refused.stderr


@pytest.mark.requirement("T26")
def test_the_root_has_the_crl_that_was_published_put_back(tmp_path: Path) -> None:
    """Into a directory of an old backup: it counts, and is kept."""
    ours, backup = tmp_path / "ours", tmp_path / "backup"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    shutil.copytree(ours, backup)
    serial = f"{load_certificates(ours / 'issuing.pem', 'x')[0].serial_number:x}"
    succeeded("ca", "root-crl", ours, "--first", "--revoke", serial)
    published = (ours / "root.crl").read_bytes()
    (backup / "root.crl").write_bytes(published)
    assert "1 revoked" in succeeded("ca", "root-crl", backup)
    assert crl_number(backup / "root.crl") > crl_number(ours / "root.crl")
    copies = sorted((backup / "retired-crls").iterdir())
    assert [(item / "root.crl").read_bytes() for item in copies] == [
        published,
        (backup / "root.crl").read_bytes(),
    ]


def crl_number(path: Path) -> int:
    crl = x509.load_der_x509_crl(path.read_bytes())
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


@pytest.mark.requirement("T26")
@pytest.mark.parametrize(
    "case",
    [
        "no name",
        "own name",
        "a signer's name",
        "own key",
        "long name",
        *PERMITS,
        "strong key",
        "no key",
        "https",
        "serial",
        "reason",
    ],
)
def test_what_the_root_does_not_sign(case: str, tmp_path: Path) -> None:
    """Says why, and writes nothing."""
    ours = tmp_path / "ours"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    root = load_certificates(ours / "root.pem", "root")[0]
    subject = {
        "no name": "",
        "own name": root.subject,
        "a signer's name": load_certificates(ours / "cmp.pem", "cmp")[0].subject,
        "long name": f"CN=SEG CA,OU={'u' * 65}",
    }.get(case, "CN=Op Two SEG CA,O=Op Two")
    key: Any = make_key("p384" if case == "strong key" else "p256")
    if case == "own key":
        key = load_pem_private_key((ours / "issuing.key").read_bytes(), None)
    request = write_request(tmp_path / "ca.csr", subject, key=key)
    url = CRL_URL.replace("http:", "https:") if case == "https" else CRL_URL
    command: list[str | Path] = ["ca", "cross-sign", ours, request, "--crl-url", url]
    if case in PERMITS:
        command += ["--permit", PERMITS[case]]
    elif case == "no key":
        (ours / "root.key").rename(tmp_path / "root.key")
    elif case == "serial":
        command = ["ca", "root-crl", ours, "--first", "--revoke", "1234"]
    elif case == "reason":
        command = ["ca", "root-crl", ours, "--reason", "certificateHold"]
    ended = run(*command)
    assert ended.exit_code == 2
    said = {
        "no name": "has no subject",
        "own name": "has the name or the key of",
        "a signer's name": "has the name or the key of",
        "own key": "has the name or the key of",
        "long name": "OU has 65 characters",
        **dict.fromkeys(PERMITS, "--permit"),
        "strong key": "weaker than that (TS 33.310 6.1.1)",
        "no key": "root's key is needed",
        "https": "begins with http:// or ldap://",
        "serial": "is of none of the certificates",
        "reason": "is not one",
    }
    assert said[case] in ended.stderr
    assert not list(ours.glob("cross/*"))
    assert not (ours / "root.crl").exists()


@pytest.mark.requirement("T26")
@pytest.mark.parametrize("place", ["cross", "making", "cross/making/retired", "next.cross-sign"])
def test_where_the_directory_lies_makes_no_difference(tmp_path: Path, place: str) -> None:
    """What the directories above it are called: the root's own name stays its own, and its CRL goes on."""
    ours = tmp_path / place / "ca"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    for file in ("root", "issuing", "cmp"):
        subject = load_certificates(ours / f"{file}.pem", file)[0].subject
        request = write_request(tmp_path / f"{file}.csr", subject)
        ended = run("ca", "cross-sign", ours, request, "--crl-url", CRL_URL)
        assert (ended.exit_code, "has the name or the key of" in ended.stderr) == (2, True)
    request = write_request(tmp_path / "1.csr", "CN=SEG CA,O=Op Two")
    succeeded("ca", "cross-sign", ours, request, "--crl-url", CRL_URL)
    (cross,) = (ours / "cross").iterdir()
    succeeded("ca", "root-crl", ours, "--first")
    assert "1 revoked" in succeeded("ca", "root-crl", ours, "--revoke", cross.stem)


@pytest.mark.requirement("T26")
def test_a_peer_with_the_roots_name_can_be_revoked(tmp_path: Path) -> None:
    """One that an older release certified: that it looks self-issued does not save it."""
    ours = tmp_path / "ours"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    key = load_private_key(ours / "root.key", None, "root")
    root = load_certificates(ours / "root.pem", "root")[0]
    now = datetime.now(UTC)
    peer = certify_ca(
        root.subject_der,
        spki_der(make_key("p256")),
        root,
        key,
        not_before=now,
        not_after=now + timedelta(days=1),
        extensions=ca_extensions(0),
    )
    (ours / "cross").mkdir()
    serial = f"{peer.serial_number:x}"
    write_certificates(ours / "cross" / f"{serial}.pem", (peer,))
    assert "1 revoked" in succeeded("ca", "root-crl", ours, "--first", "--revoke", serial)
    itself = f"{root.serial_number:x}"
    assert "is the root's own" in run("ca", "root-crl", ours, "--revoke", itself).stderr


@pytest.mark.requirement("T26")
def test_an_issuing_ca_that_the_root_revoked_issues_nothing(config: Path, tmp_path: Path) -> None:
    """Neither does it sign, nor is its key certified anew: until it has a successor."""
    directory = config.parent / "ca"
    issuing = load_certificates(directory / "issuing.pem", "x")[0]
    revoke = ("ca", "root-crl", directory, "--first", "--revoke", f"{issuing.serial_number:x}")
    assert "ca roll-issuing" in succeeded(*revoke, "--reason", "cACompromise")
    names = x509.SubjectAlternativeName([x509.DNSName(FQDN)])
    request = write_request(tmp_path / "seg.csr", f"CN={FQDN},O=Example Operator", names)
    sign = ("ca", "sign", request, "--out", tmp_path / "seg.pem", "--profile", "seg", "-c", config)
    commands: list[tuple[str | Path, ...]] = [
        sign,
        ("ca", "issue-ra", directory, tmp_path / "ra"),
        ("ca", "roll-root", directory),
        ("ca", "renew-signers", directory),
        ("check-config", "-c", config),
    ]
    for command in commands:
        ended = run(*command)
        assert (ended.exit_code, "has revoked" in ended.stdout + ended.stderr) == (2, True), command
    listed = succeeded("ca", "expiries", directory)
    assert ["revoked" in line for line in listed.splitlines() if "issuing.pem" in line] == [True]
    assert "has revoked" in run("doctor", "-c", config).stdout
    succeeded("ca", "roll-issuing", directory)
    succeeded(*sign)


CYRILLIC_C: Final = "\u0421"


@pytest.mark.requirement("T26")
@pytest.mark.parametrize(
    "subject",
    [
        "O=Op One,CN=Op One Issuing CA",
        f"CN=Op One Issuing {CYRILLIC_C}A,O=Op One",
        "CN=OP  ONE lssuing CA,O=op one",
        "CN=Op One CMP,O=\u039fp One",
    ],
)
def test_a_name_that_looks_like_the_cas_own(tmp_path: Path, subject: str) -> None:
    """In another order, case or alphabet."""
    ours = tmp_path / "ours"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    request = write_request(tmp_path / "1.csr", subject)
    ended = run("ca", "cross-sign", ours, request, "--crl-url", CRL_URL)
    assert (ended.exit_code, "looks like it" in ended.stderr) == (2, True)


@pytest.mark.requirement("T26")
def test_a_key_of_the_cas_own_in_another_spelling(tmp_path: Path) -> None:
    """A compressed point is the same key."""
    ours = tmp_path / "ours"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    openssl("ec", "-in", ours / "issuing.key", "-conv_form", "compressed", "-out", tmp_path / "k")
    request = tmp_path / "1.csr"
    openssl("req", "-new", "-key", tmp_path / "k", "-subj", "/O=Op Two/CN=CA", "-out", request)
    ended = run("ca", "cross-sign", ours, request, "--crl-url", CRL_URL)
    assert (ended.exit_code, "the name or the key of" in ended.stderr) == (2, True)


@pytest.mark.requirement("T26")
def test_a_successor_does_not_take_a_peers_name(tmp_path: Path) -> None:
    """The next number is taken, or none at all; and who certifies a peer of such a name is told."""
    ours = tmp_path / "ours"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    sign = ("ca", "cross-sign", ours)
    for number, subject in enumerate(
        ("CN=Op One Issuing CA G2,O=Op One", "O=Op One,CN=Op One Issuing CA G3", "CN=Two CMP,O=Op")
    ):
        request = write_request(tmp_path / f"{number}.csr", subject, key="p256")
        told = succeeded(*sign, request, "--crl-url", CRL_URL)
        assert ("looks like, your own" in told) is ("Op One" in subject)
    again = write_request(tmp_path / "again.csr", "CN=Two CMP,O=Op")
    told = succeeded(*sign, again, "--crl-url", CRL_URL)
    assert ("The same name has" in told, "and another key" in told) == (True, True)
    for subject in ("CN=Op One Issuing CA G2,O=Op One", "CN=Two Issuing CA,O=Op", "CN=Op One Root CA,O=Op One",
                    "CN=Op One CMP,O=Op One"):  # fmt: skip
        ended = run("ca", "roll-issuing", ours, "--subject", subject)
        assert ended.exit_code == 2, subject
        assert "of this name" in ended.stderr or "this name already" in ended.stderr
    assert "CN=Op One Issuing CA G4" in succeeded("ca", "roll-issuing", ours)


@pytest.mark.requirement("T26")
def test_a_cross_certificate_whose_file_is_gone_can_be_revoked(tmp_path: Path) -> None:
    """By its serial number, and the word that no certificate here has it; nothing else passes for one."""
    ours = tmp_path / "ours"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    request = write_request(tmp_path / "1.csr", "CN=SEG CA,O=Op Two")
    succeeded("ca", "cross-sign", ours, request, "--crl-url", CRL_URL)
    (cross,) = (ours / "cross").iterdir()
    cross.unlink()
    colons = ":".join(f"{int(cross.stem, 16):032X}"[at : at + 2] for at in range(0, 32, 2))
    refused = run("ca", "root-crl", ours, "--first", "--revoke", colons)
    assert (refused.exit_code, "--unknown" in refused.stderr) == (2, True)
    own = f"{load_certificates(ours / 'root.pem', 'x')[0].serial_number:x}"
    for text in ("0", "-5", "1_0", f"8{'0' * 39}", "f" * 41, "1 2", "", own):
        ended = run("ca", "root-crl", ours, "--first", "--unknown", "--revoke", text)
        assert (ended.exit_code, "erial number" in ended.stderr) == (2, True), text
        assert not (ours / "root.crl").exists()
    told = succeeded("ca", "root-crl", ours, "--first", "--unknown", "--revoke", colons)
    assert ("1 revoked" in told, "whose certificate is not here" in told) == (True, True)
    crl = x509.load_der_x509_crl((ours / "root.crl").read_bytes())
    assert crl.get_revoked_certificate_by_serial_number(int(cross.stem, 16)) is not None
    again = run("ca", "root-crl", ours, "--revoke", colons)
    assert "is listed already" in again.stderr


# --- what is said of it -----------------------------------------------------------------------------------------


@pytest.mark.requirement("T25")
def test_the_names_of_the_request_are_not_kept_unseen(config: Path, tmp_path: Path) -> None:
    """With a subject of the command line somebody has to say so; what is signed is said in any case."""
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("victim-seg.example.net"),
            x509.IPAddress(ip_address("10.0.0.1")),
            x509.UniformResourceIdentifier("urn:uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        ]
    )
    request = write_request(tmp_path / "seg.csr", "CN=factory", names)
    out = tmp_path / "seg.pem"
    sign = ("ca", "sign", request, "--out", out, "--profile", "seg", "--config", config)
    subject = ("--subject", f"CN={FQDN},O=Example Operator")
    ended = run(*sign, *subject)
    assert ended.exit_code == 2
    assert "victim-seg.example.net, ip:10.0.0.1, uri:urn:uuid:6ba7b810" in ended.stderr
    assert "--keep-san" in ended.stderr
    assert run(*sign, *subject, "--san", f"dns:{FQDN}", "--keep-san").exit_code == 2
    assert not out.exists()
    told = succeeded(*sign, *subject, "--san", f"dns:{FQDN}")
    assert (f"Names besides: dns:{FQDN}." in told, "victim" in told) == (True, False)
    again = write_request(tmp_path / "again.csr", "CN=factory", names)
    kept = ("ca", "sign", again, "--out", tmp_path / "kept.pem", "--profile", "seg", "-c", config)
    told = succeeded(*kept, *subject, "--keep-san")
    assert "Names besides: dns:victim-seg.example.net, ip:10.0.0.1, uri:urn:uuid" in told
    assert "By seg, for " in told


@pytest.mark.requirement("T25")
@pytest.mark.parametrize(
    "options, at_fault, todo",
    [
        (["--san", "foo"], "--san", "dns:, ip:, uri:, email: or dn:"),
        (["--san", "ip:nowhere"], "--san", ""),
        (["--san", "dns:a_b.example.net"], "x.csr with --san", "Give another --san"),
        (["--profile", "ra"], "--profile", "PKI's own"),
        (["--profile", "sge"], "--profile", "Choose one of"),
        (["--subject", "foo"], "--subject", "is no name"),
        (["--subject", f"CN={FQDN},O=Other"], "x.csr with --subject", "Give another --subject"),
        (["--subject", "CN=seg1.evil.example,O=Example Operator"], "x.csr with --subject", ""),
        (["--san", "dns:seg1.evil.example"], "x.csr with --san", ""),
        ([], "x.csr: is refused", "Have the request made anew"),
    ],
)
def test_the_option_that_is_at_fault_is_named(
    options: list[str], at_fault: str, todo: str, config: Path, tmp_path: Path
) -> None:
    """Not the request, which is in order; the request where it is not."""
    text = config.read_text()
    lines = 'domains = ["example.net"]\norganisations = ["Example Operator"]\n'
    config.write_text(text.replace("[ca]\n", f"[ca]\n{lines}", 1))
    subject = f"CN={FQDN},O=Example Operator" if options else f"CN={FQDN},O=Other"
    request = write_request(tmp_path / "x.csr", subject)
    base = [] if "--profile" in options else ["--profile", "seg"]
    sign: list[str | Path] = ["ca", "sign", request, "--out", tmp_path / "x.pem", *base]
    sign += ["--config", config]
    ended = run(*sign, *options)
    assert (ended.exit_code, at_fault in ended.stderr, todo in ended.stderr) == (2, True, True), (
        ended.stderr
    )
    assert "ocsp_signer" not in ended.stderr
    within = succeeded("ca", "profiles", "--config", config)
    assert "example.net, O=Example Operator" in " ".join(within.split())


@pytest.mark.requirement("T26")
@pytest.mark.parametrize("reason", ["keyCompromise", "cACompromise", "aACompromise", "superseded"])
def test_a_key_that_was_compromised_is_not_certified_again(tmp_path: Path, reason: str) -> None:
    """Whatever its name is; one that was revoked for another reason is."""
    ours = tmp_path / "ours"
    succeeded("ca", "create", ours, "--organisation", "Op One")
    request = write_request(tmp_path / "1.csr", "CN=SEG CA,O=Op Two")
    sign = ("ca", "cross-sign", ours, request, "--crl-url", CRL_URL)
    succeeded(*sign)
    (cross,) = (ours / "cross").iterdir()
    succeeded("ca", "root-crl", ours, "--first", "--revoke", cross.stem, "--reason", reason)
    ended = run(*sign)
    compromised = reason != "superseded"
    assert ("has the key of cross/" in ended.stderr) is compromised
    assert (ended.exit_code == 2) is compromised
