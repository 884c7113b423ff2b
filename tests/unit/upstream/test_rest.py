"""What CAs with REST APIs answer is bounded before and after it is decoded."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from ra_gateway.errors import UpstreamBroken
from ra_gateway.keys import pem
from ra_gateway.upstream.rest import MAX_CERTIFICATES, MAX_DEPTH, certificates_in, json_object
from tests.support.pki import make_root


def nested(depth: int) -> bytes:
    """Return an object in which a value is inside so many others."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    "content, text",
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"\xff{}", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"[]", "not an object"),
        (b"1", "not an object"),
        (nested(MAX_DEPTH + 2), "inside more than"),
        (nested(900), "inside more than"),
        (nested(2000), "inside more than|not JSON"),
        (b"[" * 100_000, "more than 4096 values"),
        (b'{"a":[' + b"1," * 5000 + b"1]}", "more than 4096 values"),
        (b'{"a":' + b"9" * 5000 + b"}", "digits"),
        (b'{"a":' + b"9" * 33 + b"}", "digits"),
        (b'{"a":1e999}', "too large"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":-Infinity}', "Infinity"),
        (b'{"a":1,"a":2}', "twice"),
        (b'{"x":{"a":1,"\\u0061":2}}', "twice"),
    ],
)
def test_json_that_is_not_taken(content: bytes, text: str) -> None:
    """Each with an error of its own kind, never one of recursion or of numbers."""
    with pytest.raises(ValueError, match=text):
        json_object(content)


def test_values_are_counted_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of a megabyte may be 130,000 of them."""
    monkeypatch.setattr(
        "ra_gateway.upstream.rest.json.loads", lambda *_, **__: pytest.fail("decoded")
    )
    with pytest.raises(ValueError, match="values"):
        json_object(b'{"a":[' + b"{}," * 80_000 + b"0]}")


def test_json_that_is_taken() -> None:
    """As deep as may be."""
    assert json_object(nested(MAX_DEPTH))["a"]
    assert json_object(b'{"a":[1.5,null,true,"\\u00e4"],"b":{"c":-7}}') == {
        "a": [1.5, None, True, "ä"],
        "b": {"c": -7},
    }


@pytest.mark.parametrize(
    "value",
    [
        1,
        {},
        [[]],
        [["x"]],
        [1],
        "x",
        "-----BEGIN CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\n" * 9000,
        "-----BEGIN NOTHING-----\n-----END NOTHING-----",
        pem(b"0"),
        [base64.b64encode(b"0").decode()],
        "MAA=\n",
    ],
)
def test_what_is_no_certificate(value: Any) -> None:
    """However it is nested."""
    with pytest.raises(UpstreamBroken, match="no certificate"):
        certificates_in(value, "chain")


def test_certificates_are_counted() -> None:
    """One by one, in PEM, and in both."""
    ca = make_root("REST Root")
    text = pem(ca.der)
    whole = base64.b64encode(ca.der).decode()
    assert certificates_in([text, whole, None, ""], "chain") == (ca.der, ca.der)
    for value in ([text] * (MAX_CERTIFICATES + 1), [text * MAX_CERTIFICATES, whole]):
        with pytest.raises(UpstreamBroken, match="more than"):
            certificates_in(value, "chain")
