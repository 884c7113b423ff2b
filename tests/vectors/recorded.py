"""Messages of a stranger: what the `openssl cmp` of the machine sends and answers, with the cast's keys."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from ra_gateway.cmp.messages import PKIMessage
from tests.support import pki
from tests.support.openssl import openssl_path
from tests.vectors.book import DIRECTORY, REFERENCE, SECRET, Step, Verdict
from tests.vectors.cast import OPERATOR_SUBJECT, Member, member
from tests.vectors.catalogue import Catalogue, accepted, refused

_SUBJECT: Final = "/CN=enb-1.ran.example.net"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of `openssl cmp` against the mock server inside it.

    Args:
        options: Of the command.
        by: Who protects it; "" for the shared secret.
        keep: Files of the run to vectors: q1, q2... are requests, p1, p2... answers.
    """

    options: tuple[str, ...]
    keep: Mapping[str, str]
    by: str = "device"


RUNS: Final = (
    Run(
        ("-cmd", "ir", "-sans", "enb-1.example.net"),
        {"q1": "openssl-ir", "p1": "openssl-ip", "q2": "openssl-certconf", "p2": "openssl-pkiconf"},
    ),
    Run(
        ("-cmd", "ir", "-implicit_confirm", "-geninfo", "1.2.3.4:int:56789"),
        {"q1": "openssl-ir-implicit"},
    ),
    Run(("-cmd", "ir", "-popo", "0", "-accept_raverified"), {"q1": "openssl-ir-ra-verified"}),
    Run(("-cmd", "ir", "-popo", "-1"), {"q1": "openssl-ir-no-pop"}),
    Run(("-cmd", "ir", "-digest", "sha1"), {"q1": "openssl-ir-sha1"}),
    Run(("-cmd", "ir", "-unprotected_requests"), {"q1": "openssl-ir-unprotected"}),
    Run(("-cmd", "cr"), {"q1": "openssl-cr"}, "enb"),
    Run(("-cmd", "p10cr", "-csr", "request.pem"), {"q1": "openssl-p10cr"}),
    Run(("-cmd", "kur", "-oldcert", "enb.pem"), {"q1": "openssl-kur"}, "enb"),
    Run(("-cmd", "rr", "-oldcert", "enb.pem", "-revreason", "1"), {"q1": "openssl-rr"}, "enb"),
    Run(("-cmd", "rr", "-oldcert", "enb.pem"), {"q1": "openssl-rr-no-reason"}, "enb"),
    Run(("-cmd", "genm", "-infotype", "caCerts"), {"q1": "openssl-genm"}, "enb"),
    Run(("-cmd", "ir", "-poll_count", "1", "-check_after", "0"), {"q2": "openssl-pollreq"}),
    Run(
        (
            *("-cmd", "ir", "-ref", REFERENCE, "-secret", f"pass:{SECRET}"),
            *("-srv_ref", REFERENCE, "-srv_secret", f"pass:{SECRET}"),
        ),
        {"q1": "openssl-ir-pbm"},
        "",
    ),
)


def write(book: Catalogue, octets: Mapping[str, bytes]) -> None:
    """Take what was recorded into the catalogue."""

    def add(name: str, what: str, expected: Verdict, *numbers: int, **fields: Any) -> None:
        first = fields.pop("judged_with", name)
        moment = PKIMessage.from_der(octets[first]).header.message_time
        book.add(name, what, expected, octets[name], *numbers, at=moment, **fields)

    add("openssl-ir", "ir of openssl with a subjectAltName.", accepted(), *(1, 73))
    first = Step("openssl-ir", "openssl-ip")
    add(
        "openssl-ip",
        "ip of openssl's mock CA.",
        accepted(),
        *(1, 88),
        posted="openssl-ir",
        judged_with="openssl-ir",
    )
    add(
        "openssl-certconf",
        "certConf of openssl.",
        accepted("pkiconf"),
        *(80, 100),
        before=(first,),
        ca="openssl-pkiconf",
    )
    add(
        "openssl-pkiconf",
        "pkiConf of openssl's mock CA.",
        accepted("pkiconf"),
        100,
        before=(first,),
        posted="openssl-certconf",
    )
    add(
        "openssl-ir-implicit",
        "ir of openssl with implicitConfirm and generalInfo unknown here.",
        accepted(),
        30,
    )
    add(
        "openssl-ir-ra-verified",
        "ir of openssl with raVerified.",
        refused("notAuthorized", "R57", "ip"),
        57,
    )
    add(
        "openssl-ir-no-pop",
        "ir of openssl without proof of possession.",
        refused("badPOP", "R53", "ip"),
        53,
    )
    add("openssl-ir-sha1", "ir of openssl with SHA-1.", refused("badAlg", "R17"), *(17, 146))
    add(
        "openssl-ir-unprotected",
        "ir of openssl without protection.",
        refused("badMessageCheck", "R13"),
        13,
    )
    add("openssl-cr", "cr of openssl.", accepted("cp"), 1)
    add("openssl-p10cr", "p10cr of openssl.", accepted("cp"), 65)
    add("openssl-kur", "kur of openssl.", accepted("kup"), 144)
    add("openssl-rr", "rr of openssl.", accepted("rp"), 129)
    add(
        "openssl-rr-no-reason",
        "rr of openssl without a reason, as it comes by default.",
        refused("badRequest", "R132", "rp"),
        132,
    )
    add("openssl-genm", "genm of openssl.", accepted("genp"), 133)
    add(
        "openssl-pollreq",
        "pollReq of openssl for an operation that nobody knows here.",
        refused("badRequest", "R11"),
        *(11, 119),
    )
    add(
        "openssl-ir-pbm",
        "ir of openssl under a shared secret, with its HMAC-SHA1.",
        accepted(),
        *(38, 44),
        configuration="mac",
    )


def read() -> dict[str, bytes]:
    """Return what was recorded before."""
    names = [name for run in RUNS for name in run.keep.values()]
    return {name: (DIRECTORY / f"{name}.der").read_bytes() for name in names}


def record() -> dict[str, bytes]:
    """Run openssl and return what it sent and answered.

    Raises:
        AssertionError: It did not send what it should.
    """
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        _write_files(directory)
        for run in RUNS:
            found.update(_run(directory, run))
    return found


def _write_files(directory: Path) -> None:
    for name in ("device", "enb", "operator-cmp", "issued", "acme-sub", "operator-issuing"):
        _write(directory, name, member(name))
    roots = (member("acme-root").certificate, member("operator-root").certificate)
    pems = [x509.load_der_x509_certificate(item.der) for item in roots]
    pki.write_certificates(directory / "roots.pem", *pems)
    key = member("new-p256").private_key
    pki.write_key(directory / "new.key", key)
    csr = x509.CertificateSigningRequestBuilder(x509.Name.from_rfc4514_string(OPERATOR_SUBJECT))
    signed = csr.sign(key, pki.signature_hash(key))
    (directory / "request.pem").write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def _write(directory: Path, name: str, item: Member) -> None:
    pki.write_key(directory / f"{name}.key", item.private_key)
    pki.write_certificates(
        directory / f"{name}.pem", x509.load_der_x509_certificate(item.certificate.der)
    )


def _run(directory: Path, run: Run) -> dict[str, bytes]:
    signed = ("-cert", f"{run.by}.pem", "-key", f"{run.by}.key", "-extracerts", "acme-sub.pem")
    command = [
        *(openssl_path(), "cmp", "-config", "", "-batch", "-use_mock_srv"),
        *("-srv_cert", "operator-cmp.pem", "-srv_key", "operator-cmp.key"),
        *("-srv_trusted", "roots.pem", "-srv_untrusted", "operator-issuing.pem"),
        *("-rsp_cert", "issued.pem", "-trusted", "roots.pem", "-untrusted", "operator-issuing.pem"),
        *("-subject", _SUBJECT, "-certout", "out.pem"),
        *(() if "-csr" in run.options else ("-newkey", "new.key")),
        *(signed if run.by else ()),
        *("-reqout", "q1,q2,q3,q4", "-rspout", "p1,p2,p3,p4"),
        *run.options,
    ]
    for old in directory.glob("[qp][1234]"):
        old.unlink()
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    missing = [file for file in run.keep if not (directory / file).exists()]
    # A refusal is a failure for openssl, but its message is there all the same.
    assert not missing, f"{missing}\n{done.stdout}{done.stderr}"
    return {name: (directory / file).read_bytes() for file, name in run.keep.items()}
