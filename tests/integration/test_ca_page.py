"""What docs/ca.md prints: each command does what the page says, at a CA that is made by the page's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509

from tests.support.commandline import PASSWORD, succeeded
from tests.support.openssl import load_certificate
from tests.support.page_site import run_openssl
from tests.support.pages import commands
from tests.support.pki import VendorPKI, make_key, write_certificates, write_key
from tests.support.ports import free_port
from tests.support.printed import Prompt, to_run
from tests.support.processes import CAProcess
from tests.support.setups import http_upstream, make_setup

PAGE: Final = "ca.md"
FIRST: Final = "From nothing to a first certificate"
CONFIG: Final = """
[log]
format = "json"

[ca]
directory_path = "ca"
ledger_path = "ledger.sqlite"
crl_url = "http://pki.example.net/crl/{issuer}.crl"
domains = ["ran.example.net", "example.net"]
organisations = ["Example Operator"]

[ca.server]
listen_port = 0

[ca.status]
listen_port = 0

[ca.client]
paths = ["/client"]
vendors = ["acme"]

[vendors.acme]
anchors_paths = ["acme/root.pem"]
"""
NOT_HERE: Final = ("migrate", "serve", "install")
"""Of `ca`: what a test of its own runs."""


def run_as_printed(directory: Path, words: list[str]) -> str:
    """Run a command of the page in a directory that stands for where the page has its files."""
    suffixes = (".toml", ".csr", ".pem", ".csv", ".p12", ".password")
    files = (word.replace("/etc/ra_gateway", str(directory)) for word in words[1:])
    return succeeded(
        *(str(directory / word) if word.endswith(suffixes) else word for word in files)
    )


def make_request(directory: Path, name: str, subject: str) -> None:
    """Make a key and a PKCS #10 as their owner does."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    out = ["-keyout", f"{name}.key", "-out", f"{name}.csr"]
    done = run_openssl(directory, ["openssl", "req", "-new", *key, "-subj", subject, *out])
    assert done.returncode == 0, done.stderr


@pytest.fixture
def directory(tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    """A CA as "From nothing to a first certificate" makes it, with its client mode."""
    (tmp_path / "ca.toml").write_text(CONFIG)
    vendor_pki.write(tmp_path / "acme")
    (tmp_path / "transport.password").touch(0o600)
    (tmp_path / "transport.password").write_text(PASSWORD)
    (tmp_path / "stations.csv").write_text(
        'name,subject,names\nenb2,"CN=enb2.ran.example.net,O=Example Operator",dns:enb2.ran.example.net\n'
    )
    for words in commands(PAGE, FIRST, "ra-gateway"):
        if words[1:2] == ["ca"] and not {*words} & {*NOT_HERE}:
            assert "warning" not in run_as_printed(tmp_path, words)
    return tmp_path


@pytest.mark.requirement("T12", "T27")
def test_a_base_station_gets_its_names(directory: Path, vendor_pki: VendorPKI) -> None:
    """Those of its end entity, whatever the vendor's certificate has as SubjectAltName."""
    subject = "2.5.4.5=SN-000001,CN=enb1,O=ACME Radio"
    device = vendor_pki.sub.issue(subject, san=["dns:enb1.acme-radio.example"])
    device.write(directory, "vendor")
    write_certificates(directory / "vendor-sub.pem", *device.intermediates)
    write_key(directory / "new.key", make_key("p256"))
    (directory / "root.pem").write_bytes((directory / "ca" / "root.pem").read_bytes())
    (command,) = (words for words in commands(PAGE) if words[1:4] == ["cmp", "-cmd", "ir"])
    with CAProcess(directory / "ca.toml") as ca:
        server = {"ca.example.net:8081": f"127.0.0.1:{ca.port}"}
        words = [server.get(word, word) for word in command]
        done = run_openssl(directory, words)
        assert done.returncode == 0, done.stderr
        asks_for_the_vendors = [word for word in words if word != "-san_nodefault"]
        assert run_openssl(directory, asks_for_the_vendors).returncode != 0
    certificate = load_certificate(directory / "new.pem")
    assert certificate.subject.rfc4514_string() == "CN=enb1.ran.example.net,O=Example Operator"
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["enb1.ran.example.net"]


@pytest.mark.requirement("T25", "T26")
def test_requests_that_are_brought_by_hand(directory: Path) -> None:
    """Two PKCS #10, and another operator's CA; the root's CRL."""
    for number in (1, 2):
        make_request(directory, f"seg{number}", f"/O=Example Operator/CN=seg{number}.example.net")
    make_request(directory, "peer-seg-ca", "/O=Op Two/CN=Op Two SEG CA")
    for words in commands(PAGE, "Requests that are brought by hand", "ra-gateway"):
        if "SERIAL" in words:
            (cross,) = (directory / "ca" / "cross").iterdir()
            words = [cross.stem if word == "SERIAL" else word for word in words]
        run_as_printed(directory, words)
    for number in (1, 2):
        subject = load_certificate(directory / f"seg{number}.pem").subject.rfc4514_string()
        assert subject == f"CN=seg{number}.example.net,O=Example Operator"


def test_what_the_ca_serves_and_keeps(directory: Path, vendor_pki: VendorPKI) -> None:
    """It serves; its RA is installed at a gateway; roles, CRL, OCSP, and a ledger that is backed up and restored."""
    status = free_port()
    prompt = Prompt(
        directory,
        {
            "/etc/ra_gateway": str(directory),
            " gateway.toml": " gateway/gateway.toml",
            "127.0.0.1:8082": f"127.0.0.1:{status}",
        },
    )
    # The gateway of a CA that is elsewhere: this one.
    elsewhere = http_upstream("http://127.0.0.1:9/.well-known/cmp")
    make_setup(directory / "gateway", vendors={"acme": vendor_pki}, upstream=elsewhere)
    for name in ("root.pem", "issuing.pem"):
        shutil.copy(directory / "ca" / name, directory / "gateway" / "operator" / name)
    config = directory / "ca.toml"
    text = config.read_text().replace(
        "[ca.status]\nlisten_port = 0", f"[ca.status]\nlisten_port = {status}"
    )
    config.write_text(text)
    (directory / "new-ca.toml").write_text(text.replace("ledger.sqlite", "new.sqlite"))
    make_request(directory, "enb1", "/O=Example Operator/CN=enb1.ran.example.net")
    prompt.succeeds("ra-gateway ca sign enb1.csr --out enb1.pem --profile seg -c ca.toml")
    for name in ("root.pem", "issuing.pem"):
        shutil.copy(directory / "ca" / name, directory)
    printed = [item.text for item in to_run(f"docs/{PAGE}", FIRST)]
    first = [text for text in printed if {*text.split()} & {*NOT_HERE}]
    (serve,) = (text for text in first if " serve" in text)
    output = ""
    with prompt.serving(serve):
        for command in first:
            if command != serve:
                prompt.succeeds(command)
        for section in ("Profiles", "CRLs and OCSP", "The ledger"):
            for item in to_run(f"docs/{PAGE}", section):
                output += prompt.succeeds(item.text)
    assert "enb1.pem: good" in output
    assert "Certificate Revocation List" in output
