"""What docs/client-openssl.md says of `openssl cmp`, in the machine's version and in 3.5."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.support.commandline import succeeded
from tests.support.newer_openssl import newer_openssl, openssl_version
from tests.support.openssl import load_certificate
from tests.support.page_site import make_page_site, run_openssl, served
from tests.support.pages import commands
from tests.support.pki import VendorPKI, write_certificates

PAGE = "client-openssl.md"
FACTORY = ".acme-radio.example"
KEYS = "Keys and secret"
BOTH = ("Enrolment and renewal", "What a lenient endpoint takes besides")
NEWER = "What only 3.5 has"


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory, vendor_pki: VendorPKI) -> Path:
    """What `init` makes, with what the page changes of the CA."""
    config = make_page_site(tmp_path_factory.mktemp("openssl"), PAGE, vendor_pki)
    succeeded("ca", "crl", "-c", config)
    return config.parent


@pytest.fixture
def files(setup: Path, tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    """What the page's base stations bring from the factory, and the operator's root."""
    device = vendor_pki.device(f"enb-7{FACTORY}", san=[f"dns:enb-7{FACTORY}"])
    device.write(tmp_path, "device")
    receiving = ["digitalSignature", "keyEncipherment"]
    vendor_pki.device(
        f"enb-10{FACTORY}", "rsa2048", key_usage=receiving, san=[f"dns:enb-10{FACTORY}"]
    ).write(tmp_path, "rsa-device")
    write_certificates(tmp_path / "chain.pem", *device.intermediates)
    (tmp_path / "root.pem").write_bytes((setup / "operator" / "root.pem").read_bytes())
    return tmp_path


def make_keys(files: Path, program: str | None = None) -> str:
    """Make what the commands of the page have as keys, and return the secret."""
    for command in commands(PAGE, KEYS):
        done = run_openssl(files, command, program)
        assert done.returncode == 0, done.stderr
    return (files / "cmp.secret").read_text().strip()


@pytest.mark.parametrize("newer", [False, True], ids=["openssl of the machine", "openssl 3.5"])
async def test_what_both_versions_do(setup: Path, files: Path, newer: bool) -> None:
    """Each command of the page succeeds, in its order, and says what the page says."""
    program = newer_openssl() if newer else None
    secret = make_keys(files, program)
    told = []
    async with served(setup, files, PAGE, secret=secret) as site:
        for section in BOTH:
            for command in commands(PAGE, section):
                told.append(await site.check(command, program=program))
    assert (
        load_certificate(files / "new.pem").subject == load_certificate(files / "next.pem").subject
    )
    assert "is not a CA cert" in told[1]
    assert "grantedWithMods" in "".join(told)
    assert bool((files / "cas.pem").stat().st_size) == (openssl_version(program) >= (3, 5))


async def test_what_the_newer_one_does(setup: Path, files: Path) -> None:
    """Newer questions, profiles, keys of the CA and encrypted certificates."""
    program = newer_openssl()
    secret = make_keys(files, program)
    async with served(setup, files, PAGE, secret=secret) as site:
        first, *_ = commands(PAGE, BOTH[0])
        await site.check(first, program=program)
        for command in commands(PAGE, NEWER):
            await site.check(command, program=program)
    key = load_pem_private_key((files / "central.key").read_bytes(), None)
    certificate = load_certificate(files / "central.pem")
    assert key.public_key() == certificate.public_key()
    rsa = load_pem_private_key((files / "rsa.key").read_bytes(), None)
    assert load_certificate(files / "encrypted.pem").public_key() == rsa.public_key()
    assert (files / "issuing.crl").stat().st_size
    assert (files / "template.der").stat().st_size


async def test_names_that_are_asked_for_unawares(setup: Path, files: Path) -> None:
    """Without -sans those of the vendor's certificate; with -san_nodefault none, and the device gets its own."""
    program = newer_openssl()
    secret = make_keys(files, program)
    first, *_ = commands(PAGE, BOTH[0])
    i = first.index("-sans")
    nameless = first[:i] + first[i + 2 :]
    async with served(setup, files, PAGE, secret=secret) as site:
        for asks in (None, program):
            assert (await site.run(nameless, program=asks)).returncode != 0
            assert site.events[-1].rule == "R67"
            await site.check(nameless, "-subject", "/", "-san_nodefault", program=asks)
            san = load_certificate(files / "new.pem").extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
            assert san.value.get_values_for_type(x509.DNSName) == ["enb-7.ran.example.net"]
