"""The key generation authority: its files, its settings, and what it refuses to make."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ra_gateway.app.ca import BundledService
from ra_gateway.ca.derivation import derive
from ra_gateway.ca.key_generation import KeyGeneration
from ra_gateway.ca.keys import create_operator_pki, expiries, load_ca
from ra_gateway.ca.rollover import renew_signers, roll_issuing
from ra_gateway.cmp import asn1
from ra_gateway.cmp.bodies import CertResponse, PKIStatusInfo, enveloped_data
from ra_gateway.cmp.codes import PKIStatus, Possession
from ra_gateway.cmp.oids import OID
from ra_gateway.cmp.requests import require_delivery
from ra_gateway.config.reading import load_ca as load_config
from ra_gateway.errors import CMPError, ConfigError, MalformedMessage, TemplateRefused
from ra_gateway.events import unheard
from tests.support.credentials import cmp_credential
from tests.support.pki import OperatorPKI
from tests.support.profiles import CRL_URL, NE_IPSEC

NOW = datetime.now(UTC).replace(microsecond=0)
P256 = asn1.tlv(0x30, asn1.oid_der("1.2.840.10045.2.1"), asn1.oid_der("1.2.840.10045.3.1.7"))
RSA = asn1.tlv(0x30, asn1.oid_der("1.2.840.113549.1.1.1"), b"\x05\x00")


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """A CA that was told to make keys."""
    path = tmp_path / "ca"
    await create_operator_pki(path, now=NOW)
    assert await renew_signers(path, now=NOW, within_days=0, key_generation=True) == ("kga.pem",)
    return path


async def test_a_ca_has_no_authority_unless_told(tmp_path: Path) -> None:
    """Neither when it is made nor when its signers are renewed."""
    await create_operator_pki(tmp_path, now=NOW)
    await renew_signers(tmp_path, now=NOW)
    assert load_ca(tmp_path, now=NOW).key_generation is None
    assert not list(tmp_path.glob("kga*"))


@pytest.mark.requirement(154)
async def test_the_authority_is_a_signer_of_its_own(directory: Path) -> None:
    """cmKGA and digitalSignature alone, a key like no other, a file that its owner alone can read."""
    keys = load_ca(directory, now=NOW)
    credential = keys.key_generation
    assert credential is not None
    assert credential.certificate.extended_key_usage == {OID.cmKGA}
    assert credential.certificate.key_usage == frozenset({0})
    assert credential.certificate.spki_der not in (
        keys.credential.certificate.spki_der,
        *(issuer.certificate.spki_der for issuer in keys.issuers),
    )
    assert (directory / "kga.key").stat().st_mode & 0o777 == 0o600
    assert "kga.pem" in [item.file for item in expiries(directory)]


async def test_the_authority_follows_the_issuing_ca(directory: Path) -> None:
    """Renewed with the other signers, and made anew below a new issuing CA."""
    before = load_ca(directory, now=NOW).key_generation
    assert "kga.pem" in await renew_signers(directory, now=NOW)
    renewed = load_ca(directory, now=NOW).key_generation
    await roll_issuing(directory, now=NOW)
    keys = load_ca(directory, now=NOW)
    after = keys.key_generation
    assert before is not None
    assert renewed is not None
    assert after is not None
    assert len({item.certificate.spki_der for item in (before, renewed, after)}) == 3
    assert after.certificate.issuer_der == keys.issuers[0].certificate.subject_der


async def test_an_authority_that_cannot_sign_keys(directory: Path) -> None:
    """Expired, of a certificate without cmKGA, or of half its files: told at the start."""
    with pytest.raises(ConfigError, match=r"KGA.*renew-signers"):
        load_ca(directory, now=NOW + timedelta(days=3 * 365 + 1))
    kept = (directory / "kga.pem").read_bytes()
    (directory / "kga.pem").write_bytes((directory / "cmp.pem").read_bytes())
    with pytest.raises(ConfigError, match="cmKGA"):
        load_ca(directory, now=NOW)
    (directory / "kga.pem").write_bytes(kept)
    (directory / "kga.key").unlink()
    with pytest.raises(ConfigError, match=r"not both there"):
        load_ca(directory, now=NOW)


async def test_the_setting_needs_the_authority(directory: Path, tmp_path: Path) -> None:
    """key_generation without kga.pem is told with the command that makes it; with it, the service begins."""

    def service() -> BundledService:
        file = tmp_path / "ca.toml"
        settings = {
            "directory_path": directory,
            "ledger_path": tmp_path / "ledger.db",
            "crl_url": CRL_URL,  # the default profile issues nothing without
        }
        lines = [f"{name} = {json.dumps(str(value))}" for name, value in settings.items()]
        file.write_text("\n".join(("[ca]", "key_generation = true", *lines)))
        config = load_config(file)
        return BundledService(config.ca, config.vendors, unheard)

    service()
    for name in ("kga.pem", "kga.key"):
        (directory / name).unlink()
    with pytest.raises(ConfigError, match=r"ca.key_generation.*renew-signers --key-generation"):
        service()


async def test_the_kinds_of_keys_that_are_made(operator_pki: OperatorPKI) -> None:
    """As the hint says, or P-256; what the profile does not take is refused."""
    generation = KeyGeneration(cmp_credential(operator_pki.cmp_signer))
    assert generation.choose_kind(None, NE_IPSEC) == "p256"
    assert generation.choose_kind(P256, NE_IPSEC) == "p256"
    key = await generation.make_key(generation.choose_kind(RSA, NE_IPSEC))
    assert key.key_size == 3072
    only_rsa = derive(NE_IPSEC, "only_rsa", key_kinds=["rsa"])
    for hint in (None, P256, asn1.tlv(0x30, asn1.oid_der("1.2.3"))):
        with pytest.raises(TemplateRefused):
            generation.choose_kind(hint, only_rsa)
    assert KeyGeneration(generation.credential, "rsa2048").choose_kind(None, only_rsa) == "rsa2048"


@pytest.mark.requirement(96)
@pytest.mark.parametrize("possession", list(Possession))
def test_what_an_answer_must_bring(possession: Possession) -> None:
    """Each way of having a key has one form of answer; every other is refused."""
    wanted = {
        Possession.proved: (True, False, False),
        Possession.encr_cert: (False, True, False),
        Possession.key_generation: (True, False, True),
    }
    for forms in [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]:
        plain, encrypted, key = (b"\x30\x00" if form else None for form in forms)
        response = CertResponse(
            0,
            PKIStatusInfo(PKIStatus.accepted),
            plain,
            encrypted_cert_der=encrypted,
            private_key_der=key,
        )
        if tuple(map(bool, forms)) == wanted[possession]:
            require_delivery(possession, response)
        else:
            with pytest.raises(CMPError, match="without"):
                require_delivery(possession, response)


def test_encrypted_value_is_not_read() -> None:
    """The deprecated form of EncryptedKey has no place in messages of pvno 3."""
    with pytest.raises(MalformedMessage, match="EncryptedValue"):
        enveloped_data(b"\x30\x00")
