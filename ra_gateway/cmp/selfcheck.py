"""Whether the installed release of `cryptography` reads and writes DER as this project was tested with.

`cryptography.hazmat.asn1`, on which `asn1` is built, declares itself unstable: a release of the same series may be
installed without one of ours, but must not be trusted unseen to decode what strangers send.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Final

import cryptography

from ra_gateway.cmp import asn1, structures
from ra_gateway.errors import ConfigError, GatewayError, MalformedMessage, Problem

_IR: Final = base64.b64decode(
    "MIIFpDCB0gIBAqQpMCcxFTATBgNVBAoMDFZlY3RvciBSYWRpbzEOMAwGA1UEAwwFRU5CLTGkQTA/MRgwFgYDVQQKDA9WZWN0b3Ig"
    "T3BlcmF0b3IxIzAhBgNVBAMMGlZlY3RvciBPcGVyYXRvciBJc3N1aW5nIENBoBEYDzIwMjYwMTAyMDMwNDA1WqEMMAoGCCqGSM49"
    "BAMCohYEFCBd9kh3kcJ1m/08g0EmEHK83U5rpBIEEBhPQwp1CUz70YEWwgGHqAOlEgQQz1xS5WiOePZASsH6uf3QFaCB5TCB4jCB"
    "3zCBhAIBADB/pSIwIDEeMBwGA1UEAwwVZW5iLTEucmFuLmV4YW1wbGUubmV0plkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAErtlf"
    "bUGbjQsUd7+B2oTafJPK93YymaMvDxf2EKauPgXZOxjjQrF6SoeU3162AYLHaaTFscOdJsqLYn2Mxa1nfqFWMAoGCCqGSM49BAMC"
    "A0gAMEUCIQDNh2yGFswPJtDwjwQ5AFm3JTP8o/CTP2VCUz3MXxsihwIgW3w/n0aCbGSOaaj6FPAS45D6hX2z57DrxkFLEo7LEL6g"
    "SwNJADBGAiEAhEJXkWTf6xS4b84qa06+n4t5l7a++2hmPlKLE5GSlF0CIQCd2BGcnBQEes5VkqATAzk6Q1vwEhvzPdV1CnQ1WK6e"
    "26GCA5YwggOSMIIBszCCAVmgAwIBAgIUa0E0y0hB2lLKef43LRX1gJtfVWowCgYIKoZIzj0EAwIwODEVMBMGA1UECgwMVmVjdG9y"
    "IFJhZGlvMR8wHQYDVQQDDBZWZWN0b3IgUmFkaW8gRGV2aWNlIENBMB4XDTIwMDEwMTAwMDAwMFoXDTQ5MTIzMTIzNTk1OVowJzEV"
    "MBMGA1UECgwMVmVjdG9yIFJhZGlvMQ4wDAYDVQQDDAVFTkItMTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABMl1WA5fWyeoLDkJ"
    "FEpbxwzx8yG2tnwnA9vLdwU8+K8Jt9ue0KF+sN01pbzf2X3y0hIx+fWIuZLsCbqCZpH5IN2jUjBQMA4GA1UdDwEB/wQEAwIHgDAd"
    "BgNVHQ4EFgQUIF32SHeRwnWb/TyDQSYQcrzdTmswHwYDVR0jBBgwFoAUE/HY7AjbgiYpy0ZBTIOIkkenbjcwCgYIKoZIzj0EAwID"
    "SAAwRQIgIc5eEnceVBPEHyovqllzXGviuGHrqMX6eaQeM3CGYtACIQCKusnCOZXEI1diOoSAq0UCLE9xb1fhjJXyyFrQ+qAZ6jCC"
    "AdcwggF8oAMCAQICFCCPONpj8hk4eGoWTFBvffQ5peGSMAoGCCqGSM49BAMCMDYxFTATBgNVBAoMDFZlY3RvciBSYWRpbzEdMBsG"
    "A1UEAwwUVmVjdG9yIFJhZGlvIFJvb3QgQ0EwHhcNMjAwMTAxMDAwMDAwWhcNNDkxMjMxMjM1OTU5WjA4MRUwEwYDVQQKDAxWZWN0"
    "b3IgUmFkaW8xHzAdBgNVBAMMFlZlY3RvciBSYWRpbyBEZXZpY2UgQ0EwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASrBdQCGfNJ"
    "YzqES3BQ6N7xd0vQbh0rPARZZKQ+W7YRlAnA4/xSxHEvDI23b8xh3yw1mOqGMUvsmUaAVK+pXi49o2YwZDASBgNVHRMBAf8ECDAG"
    "AQH/AgEAMA4GA1UdDwEB/wQEAwIBBjAdBgNVHQ4EFgQUE/HY7AjbgiYpy0ZBTIOIkkenbjcwHwYDVR0jBBgwFoAUwSAgvyUqD8ec"
    "L+OQH579tCPW5PMwCgYIKoZIzj0EAwIDSQAwRgIhAPYe1tDXCIOiNSmYYRSAhpNdSE8xtcawiWPK1rdgvmhEAiEAo0dMYoyCtCyC"
    "5yHbOdkiSkQGR/ftCnmzkVJAUBumW5E="
)
"""An ir of a base station: signed, with POP, and the certificates of its vendor."""

_NOT_DER: Final = {
    "a message and an octet more": (structures.PKIMessage, _IR + b"\x00"),
    "a message that is cut off": (structures.PKIMessage, _IR[:-1]),
    "a length in more octets than it needs": (
        structures.BasicConstraints,
        bytes.fromhex("3081030101ff"),
    ),
    "an indefinite length": (structures.BasicConstraints, bytes.fromhex("30800101ff0000")),
    "an INTEGER in more octets than it needs": (
        structures.BasicConstraints,
        bytes.fromhex("30070101ff02020005"),
    ),
    "a BOOLEAN that is neither": (structures.BasicConstraints, bytes.fromhex("3003010101")),
    "a default value that is written": (structures.BasicConstraints, bytes.fromhex("3003010100")),
    "a member too many": (structures.BasicConstraints, bytes.fromhex("30050101ff0500")),
    "a SET for a SEQUENCE": (structures.BasicConstraints, bytes.fromhex("31030101ff")),
}


def require_codec() -> None:
    """Decode a built-in message, encode it again octet by octet, and see what is not DER refused.

    Raises:
        ConfigError: The installed release of `cryptography` does otherwise.
    """
    found = next(_differences(), None)
    if found is not None:
        raise ConfigError(
            [
                Problem(
                    f"cryptography {cryptography.__version__}",
                    f"does not read and write messages as it has to: {found}",
                    "Install the release that requirements.lock names, and report this",
                )
            ]
        )


def _differences() -> Iterator[str]:
    try:
        message = asn1.decode(structures.PKIMessage, _IR)
        header = asn1.raw(message.header)
        requests = asn1.content(message.body)
        certificates = [asn1.raw(item) for item in message.extra_certs or ()]
        tbs = [
            asn1.raw(asn1.decode(structures.Certificate, der).tbs_certificate)
            for der in certificates
        ]
        for name, cls, der in (
            ("PKIMessage", structures.PKIMessage, _IR),
            ("PKIHeader", structures.PKIHeader, header),
            ("CertReqMessages", structures.CertReqMessagesBox, asn1.tlv(0x30, requests)),
            *(("Certificate", structures.Certificate, der) for der in certificates),
            *(("TBSCertificate", structures.TBSCertificate, der) for der in tbs),
        ):
            if asn1.encode(asn1.decode(cls, der)) != der:
                yield f"a {name} is encoded otherwise than it was decoded"
    except (GatewayError, AttributeError, TypeError, ValueError) as error:
        yield f"a message cannot be read: {error}"
        return
    for what, (cls, der) in _NOT_DER.items():
        try:
            asn1.decode(cls, der)
        except MalformedMessage:
            continue
        yield f"{what} passes for DER"
