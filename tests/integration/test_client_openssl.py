"""What docs/client-openssl.md says of `openssl cmp`, in the machine's version and in 3.5."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.support.commandline import succeeded
from tests.support.newer_openssl import newer_openssl
from tests.support.openssl import load_certificate
from tests.support.page_site import SECRET, served
from tests.support.pages import commands
from tests.support.pki import VendorPKI, make_key, write_certificates, write_key
from tests.support.setups import edit, make_setup

PAGE = "client-openssl.md"
BOTH = ("Enrolment and renewal", "What a lenient endpoint takes besides")
NEWER = "What only 3.5 has"


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory, vendor_pki: VendorPKI) -> Path:
    """What `init` makes."""
    made = tmp_path_factory.mktemp("openssl")
    config = make_setup(made, vendors={"acme": vendor_pki})
    edit(config, "[ca]\n", "[ca]\nkey_generation = true\nbare_keys = true\n")
    profiles = [word for name in ("ne_ipsec", "encryption") for word in ("--profile", name)]
    rights = [word for name in ("issue", "update", "revoke") for word in ("--privilege", name)]
    succeeded("ca", "role", "add", "ra", *rights, *profiles, "-c", config)
    succeeded("ca", "crl", "-c", config)
    succeeded("ca", "renew-signers", "--key-generation", "--within-days", "0", made / "ca")
    return made


@pytest.fixture
def files(setup: Path, tmp_path: Path, vendor_pki: VendorPKI) -> Path:
    """What the page's base station has."""
    device = vendor_pki.device()
    device.write(tmp_path, "device")
    receiving = ["digitalSignature", "keyEncipherment"]
    vendor_pki.device("SN-2", "rsa2048", key_usage=receiving).write(tmp_path, "rsa-device")
    write_certificates(tmp_path / "chain.pem", *device.intermediates)
    for name in ("new", "next", "mac", "csr"):
        write_key(tmp_path / f"{name}.key", make_key("p256"))
    write_key(tmp_path / "rsa.key", make_key("rsa3072"))
    (tmp_path / "root.pem").write_bytes((setup / "operator" / "root.pem").read_bytes())
    (tmp_path / "cmp.secret").write_text(SECRET)
    return tmp_path


@pytest.mark.parametrize("newer", [False, True], ids=["openssl of the machine", "openssl 3.5"])
async def test_what_both_versions_do(setup: Path, files: Path, newer: bool) -> None:
    """Each command of the page succeeds, in its order."""
    program = newer_openssl() if newer else None
    async with served(setup, files, PAGE) as site:
        for section in BOTH:
            for command in commands(PAGE, section):
                await site.check(command, program=program)
    assert (
        load_certificate(files / "new.pem").subject == load_certificate(files / "next.pem").subject
    )


async def test_what_the_newer_one_does(setup: Path, files: Path) -> None:
    """Newer questions, profiles, keys of the CA and encrypted certificates."""
    program = newer_openssl()
    async with served(setup, files, PAGE) as site:
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
