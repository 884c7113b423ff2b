"""The look at the codec: it passes with the release at hand, and notices one that reads or writes otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cryptography
import pytest

from ra_gateway.app.application import Application
from ra_gateway.cmp import asn1, selfcheck, structures
from ra_gateway.config.reading import load
from ra_gateway.errors import ConfigError, MalformedMessage
from tests.support.pki import VendorPKI
from tests.support.setups import make_setup

DECODE, ENCODE = asn1.decode, asn1.encode


def test_the_release_at_hand() -> None:
    """And every refusal is of the one thing that is wrong: what is put right is read."""
    selfcheck.require_codec()
    assert ENCODE(DECODE(structures.BasicConstraints, bytes.fromhex("30060101ff020105")))
    assert len(selfcheck._NOT_DER) == 9


def swallows_the_rest(cls: Any, der: bytes) -> Any:
    return DECODE(cls, der[:-1] if der.endswith(b"\x00") and cls is structures.PKIMessage else der)


def reads_nothing(cls: Any, der: bytes) -> Any:
    raise MalformedMessage("no")


def has_other_names(cls: Any, der: bytes) -> Any:
    return object()


def allows_any_boolean(cls: Any, der: bytes) -> Any:
    return DECODE(cls, der.replace(b"\x01\x01\x01", b"\x01\x01\xff") if len(der) == 5 else der)


@pytest.mark.parametrize(
    "decode,why",
    [
        (swallows_the_rest, "an octet more passes for DER"),
        (reads_nothing, "a message cannot be read"),
        (has_other_names, "a message cannot be read"),
        (allows_any_boolean, "a BOOLEAN that is neither passes for DER"),
    ],
)
def test_another_decoder(
    decode: Callable[[Any, bytes], Any], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the release, what it does and what to do."""
    monkeypatch.setattr(asn1, "decode", decode)
    with pytest.raises(ConfigError) as caught:
        selfcheck.require_codec()
    (problem,) = caught.value.problems
    assert problem.path == f"cryptography {cryptography.__version__}"
    assert why in problem.what
    assert "requirements.lock" in problem.todo


def test_another_encoder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """A gateway does not start with it, nor does check-config say good."""
    config = load(make_setup(tmp_path, vendors={"acme": vendor_pki}))
    monkeypatch.setattr(asn1, "encode", lambda value: ENCODE(value) + b"\x00")
    with pytest.raises(ConfigError, match="is encoded otherwise than it was decoded"):
        Application(config)
