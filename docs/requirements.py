"""Write docs/requirements.md: what the standards ask, and the tests that show it.

python docs/requirements.py > docs/requirements.md

A test names what it covers with `@pytest.mark.requirement(26, "T8")` (R26, T8); the files are read, not run. A
row that gets its first test loses its entry in `UNTESTED`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]

PREFACE: Final = """# Requirements and their tests

<!-- Written by docs/requirements.py from the markers of the tests; a test compares them. -->

What RFC 9483, 9810, 9811, 4211 and TS 33.310 ask of a gateway and its CA, numbered as the code and
the log's `rule` number it: R by subject, T by the clauses of TS 33.310 V16.14 (where another version
is meant, it is named). "Refused" means an answer with a failInfo, where one is named that one.
"""

LATER: Final = "not yet: "
OUTSIDE: Final = "does not apply: "

Requirement = int | str
"""As a marker names it: 26 is R26, "T8" is T8."""

REQUIREMENTS: Final[dict[str, dict[Requirement, str]]] = {
    "Parsing, header, protection": {
        1: "Octets that are not exactly one DER PKIMessage are refused and harm nothing",
        2: "Versions before 2 or after 3: unsupportedVersion, told in the nearest version we speak",
        3: "An answer has the version of its request",
        4: "Without a transactionID: badDataFormat",
        5: "A short transactionID is refused in strict mode only; all its octets count as key",
        6: "A senderNonce that is absent or below 16 octets: badSenderNonce",
        7: "recipNonce in a first message is ignored, in strict mode refused",
        8: "A later message has to return our last nonce: badRecipientNonce",
        9: "Body types nobody supports: badRequest",
        10: "A body type that only servers send: badRequest",
        11: "certConf or pollReq without a transaction: badRequest",
        12: "Another request under a live transactionID: transactionIdInUse, and no harm to it",
        13: "A request without protection is refused and never passed on",
        14: "protectionAlg and protection come together or not at all",
        15: "Any changed bit of header, body or signature: badMessageCheck",
        16: "Other order or content of extraCerts is accepted while a path is found",
        17: "Protection with SHA-1, MD5 or an unknown algorithm: badAlg, even if it verifies",
        18: "An algorithm that does not fit the key is refused",
        19: "RSA signers below 2048 bits are refused",
        20: "PSS is verified with its own parameters, within what is allowed",
        21: "A signer below no configured root: signerNotTrusted",
        22: "A signer outside its validity: signerNotTrusted",
        23: "A revoked signer: signerNotTrusted; what holds without status is configured",
        24: "A root that comes with the message is no anchor",
        25: "A signer whose keyUsage has neither digitalSignature nor (but in strict mode) nonRepudiation is refused",
        26: "A sender that is not the signer's subject: badMessageCheck",
        27: "A senderKID that is not the signer's: badMessageCheck; absent is refused if strict",
        28: "Whom a message is addressed to is no reason to refuse it",
        29: "messageTime outside the window: badTime; absent as configured",
        30: "Unknown generalInfo and freeText are ignored, and passed on unchanged",
        31: "implicitConfirm with a value other than NULL is refused in strict mode",
        32: "The signer's certificate is found anywhere in extraCerts; strict wants it first",
        33: "A first message without its signer's certificate is refused",
        34: "A later message may come without certificates",
        35: "A later message by another credential is refused",
        36: "CA and RA certificates cannot act as devices: notAuthorized",
        37: "Each senderNonce of ours is 16 fresh random octets",
    },
    "MAC protection": {
        38: "A password-based MAC verifies, and the answer has the same kind",
        39: "PBMAC1 verifies, with and without its key length",
        40: "Senseless cost parameters of a MAC are refused before they cost anything",
        41: "Unknown reference and wrong secret look the same from outside",
        42: "MAC on kur or rr: wrongIntegrity",
        43: "MAC where the endpoint takes none: wrongIntegrity",
        44: "A MAC the CA cannot verify is replaced by the RA's signature",
        45: "Under a MAC, sender and senderKID name the same",
    },
    "Certificate requests and proof of possession": {
        46: "Not exactly one CertReqMsg is refused",
        47: "certReqId other than 0 is refused in strict mode: badRequest",
        48: "A template version other than v3: badCertTemplate",
        49: "serialNumber, signingAlg and UIDs of a template reach no certificate",
        50: "Another CA as the template's issuer is no reason to refuse",
        51: "Neither subject nor SubjectAltName: badCertTemplate",
        52: "No subject, but a SubjectAltName: a matter of policy",
        53: "No proof of possession: badPOP",
        54: "A proof over other octets, by another key or algorithm: badPOP",
        55: "The proof is verified over CertRequest as received",
        56: "With poposkInput, over that, and its key has to be the template's",
        57: "raVerified from a device: notAuthorized",
        58: "raVerified from a registered RA is accepted by the CA",
        59: "raVerified in kur is refused, but from the CA's own RA in RA mode",
        60: "No public key in the template is refused",
        61: "Requested keys that are too weak or not allowed: badCertTemplate",
        62: "A requested key that is the signer's own, or certified before: as configured",
        63: "Asking to become a CA or an RA: notAuthorized",
        64: "certProfile has one name at most, which the CA selects by; several are refused",
        65: "PKCS#10 with a broken signature: badPOP in cp",
        66: "PKCS#10 of an unknown version is refused in cp",
        67: "A subject that this device may not have: notAuthorized",
        68: "oldCertID that is not the signer's certificate: badCertId",
        69: "kur for an expired or revoked certificate is refused",
        70: "kur with another subject or SubjectAltName: badCertTemplate",
        71: "kur by a vendor certificate is refused",
        72: "A key that cannot sign, with a proof by encryption: badPOP",
    },
    "Forwarding to the CA": {
        73: "Upstream the RA signs as itself; IDs, nonces, request and proof stay the device's",
        74: "A body that nothing changed goes up octet by octet",
        75: "kur goes up re-protected, nested or untouched, as the upstream is configured",
        76: "A nested message has the IDs of the one inside, and a signature",
        77: "Whatever the RA changes, it verified the proof before and says raVerified",
        78: "With an invalid proof nothing goes up",
        79: "origPKIMessage, where enabled, holds the received octets",
        80: "certConf goes up signed by the same RA, or is answered locally, as configured",
        81: "certConf after kur goes the way the kur went",
        82: "implicitConfirm is passed both ways, or denied, as configured",
        83: "An answer with other IDs or nonces is not relayed",
        84: "An answer whose protection or signer is wrong is not relayed",
        85: "An answer of another type than asked for: systemFailure",
        86: "A certificate for another key is not relayed",
        87: "A certificate of a foreign CA is not relayed",
        88: "A good answer is relayed under the RA's name, its content unchanged",
        89: "The CA's rejection of a request reaches the device with its failInfo",
        90: "A CA out of reach or too slow: systemUnavail, in bounded time",
        91: "HTTP errors with CMP inside are read as CMP, without as failure of the CA",
        92: "When something fails after forwarding, the CA gets no error from us",
        93: "caPubs are kept in ip only, and only as configured",
        94: "One transactionID at two nodes: one request goes up",
        95: "A store that is lost in between: an error, and no second certificate",
    },
    "Answers, confirmation, errors, polling": {
        96: "A positive answer has a certificate and no failInfo; a rejection the reverse",
        97: "extraCerts of a positive answer: both chains, nothing twice",
        98: "Either implicitConfirm or confirmWaitTime with messageTime, never both",
        99: "implicitConfirm is not granted unasked",
        100: "certConf with the right hash: pkiConf, and the transaction is closed",
        101: "certConf that rejects the certificate: pkiConf, and it does not count",
        102: "certConf with a wrong hash: badCertId, and nothing is confirmed",
        103: "hashAlg counts in version 3, and is refused in version 2",
        104: "Without hashAlg the hash follows the certificate's signature",
        105: "certConf signed with the new key is refused",
        106: "No or two CertStatus: refused, or none as rejection",
        107: "certConf has the certReqId of the request",
        108: "certConf that accepts and complains: badRequest",
        109: "A repeated certConf gets the same answer, another one certConfirmed",
        110: "certConf after implicitConfirm was granted is refused",
        111: "No certConf in time counts as rejection",
        112: "A refused request is answered in its own response type",
        113: "A refused header or protection is answered with error and the request's nonce",
        114: "Errors are protected wherever the request could be read",
        115: "An error from a device ends its transaction and goes no further",
        116: "A CA that needs long: waiting, and no failInfo",
        117: "pollReq too soon: pollRep with the same certReqId",
        118: "pollReq in time: the final answer",
        119: "pollReq with nothing to poll for: badRequest",
        120: "pollReq before checkAfter is borne",
        121: "A CA that says waiting is polled by the device through the RA, to the very end",
    },
    "Nested messages, revocation, support messages": {
        122: "A nested message whose IDs differ from the inner ones is refused",
        123: "Nested by somebody who is no RA, or a device's raVerified inside: notAuthorized",
        124: "What was nested is answered as if it had come plain",
        125: "A batch is answered by a batch, one answer for each member",
        126: "A batch with the same IDs twice is refused",
        127: "A member without an answer: systemUnavail; answers too many are dropped",
        128: "Nested inside nested is refused",
        129: "A device revokes its own certificate, once",
        130: "A device cannot revoke another's; an RA can",
        131: "Revoking what does not exist: badCertId",
        132: "Revocation without a known reason is refused",
        133: "genm caCerts: the CA's chain",
        134: "genm rootCaCert: the successor of a root, if there is one",
        135: "genm certReqTemplate: a template without a key",
        136: "genm crlStatusList: a CRL, if there is a newer one",
        137: "A distribution point nobody knows is not fetched",
        138: "More than one question in genm, or an unknown one, is refused",
    },
    "3GPP": {
        139: "ir by a vendor certificate, its chain in any order",
        140: "A positive ip brings the operator root and every chain a base station needs",
        141: "A template without subject gets its identity from vendor data or inventory",
        142: "MAC, p10cr, rr and central key generation are refused",
        143: "implicitConfirm is denied, unless the endpoint relays it",
        144: "kur by the operator certificate is taken, and goes up as configured",
        145: "A disabled vendor, or a device that the inventory lacks: notAuthorized",
        146: "SHA-1 and MD5 are refused wherever they turn up",
        147: "Two vendors with the same names stay two",
    },
    "HTTP and the CA": {
        148: "Wrong method, content type or size: 405, 415, 413, and no CMP is read",
        149: "Every spelling of a configured URL leads to the same endpoint",
        150: "A CMP refusal is HTTP 200 with CMP in it",
        151: "Many clients on one connection do not mix",
        152: "Slow and idle connections are closed",
        153: "What is issued keeps to its profile: serial, dates, identifiers, usages",
        154: "The CA signs messages and certificates with two keys",
        155: "Of a refused request there is no certificate",
        156: "Until a renewal is confirmed, the old certificate counts",
        157: "ML-DSA works as protection and as requested key, certConf included",
        158: "Vendor chains with Ed25519 and Ed448 validate",
        159: "No secret is in a log line or an error text",
        160: "A refusal is logged with transactionID, failInfo, signer and rule",
    },
    "TS 33.310: certificates (clause 6)": {
        "T1": "Before it issues, the CA checks the request against the profile: order and domain of the name",
        "T2": "Version 3; SHA-256, SHA-384; never MD2, MD5 or SHA-1",
        "T3": "RSA and ECDSA; PKCS #1 v1.5 is not what a new RSA CA signs with by default",
        "T4": "P-256, P-384 and stronger curves, Ed25519 and Ed448; no curve below 256 bits",
        "T5": "RSA of 2048 to 4096 bits and more; what outlives 2030 with less than 3072 is warned of",
        "T6": "RSA with a public exponent below 65537 is not certified",
        "T7": "The key that signs is at least as strong as the key that is certified",
        "T8": "Names are (C), O, CN or dc, dc, (ou), cn; O and CN are UTF8String",
        "T9": "An extension of no mandate there is not critical",
        "T10": "Roots: critical keyUsage keyCertSign and cRLSign, critical basicConstraints",
        "T11": "Issuing CAs have pathLen 0, intermediate ones more",
        "T12": "SEG and NE: a SubjectAltName, not critical",
        "T13": "SEG and NE: critical keyUsage with digitalSignature or nonRepudiation",
        "T14": "SEG and NE: a CRL distribution point, not critical",
        "T15": "TLS: critical keyUsage, a CRL distribution point, EKU by its kind",
        "T16": "NF: C, and the home domain as O; three years; key identifiers by RFC 5280 method 1",
        "T17": "NF: a critical SubjectAltName",
        "T18": "NF servers: a DNS name; an address alone does not do",
        "T19": "NF: nfTypes, with the names of TS 29.510",
        "T20": "NF: the instance as `urn:uuid:` URI",
        "T21": "Certificates that sign tokens: digitalSignature, id-kp-jwt, URI (V19.5)",
        "T22": "SCP and SEPP have profiles of their own",
        "T23": "CRLs: version 2, full, no delta, also when empty",
    },
    "TS 33.310: CRLs, certification by hand, the certificates of clause 9.4": {
        "T24": "CRLs are published to, and fetched from, an LDAPv3 directory",
        "T25": "A PKCS #10 brought by hand is certified beside CMP",
        "T26": "Another operator's SEG or TLS CA is cross-certified from its PKCS #10, and that revoked",
        "T27": "Vendor certificates in the form of 9.4.4: O, CN = FQDN, the same FQDN as dNSName",
        "T28": "A vendor certificate whose keyUsage is nonRepudiation alone signs an ir",
        "T29": "The certificates of RA and CA for CMP have the SEG profile; their subject is the sender",
        "T30": "RA and CA sign messages and certificates with different keys",
    },
    "TS 33.310: CMP (clause 9.5 and 9.6)": {
        "T31": "Enrolment and key update only, with signature protection only; no cr unless it is switched on",
        "T32": "ir is verified up to a root of the device's vendor",
        "T33": "kur is verified up to the operator's root",
        "T34": "The hashes of clause 6.1.1 hold for protection, proof of possession and certConf",
        "T35": "Every message is protected; extraCerts come in any order; one PKIMessage at a time",
        "T36": "sender is the subject of the certificate whose key signs, on both sides",
        "T37": "recipient is the subject of the other side's certificate; a device may leave it empty",
        "T38": "A random transactionID of 8 octets or more",
        "T39": "senderNonce and recipNonce; that of a first message is disregarded",
        "T40": "Exactly one CertReqMsg",
        "T41": "ip, kup and certConf repeat the certReqId of the request, whatever it is",
        "T42": "The template has a public key; its subject is a suggestion, or left out",
        "T43": "Possession is proved with POPOSigningKey",
        "T44": "In poposkInput, the sender is the vendor's identity of the device",
        "T45": "ip has exactly one response, and its certificate is not encrypted",
        "T46": "extraCerts of ip: the operator's root, the certificates of RA and CA, and those in between",
        "T47": "kur is signed with the last operator key, whose certificate is in extraCerts",
        "T48": "kup does not carry the operator's root",
        "T49": "certConf is signed with the key that signed the request",
        "T50": "certConf needs no extraCerts: its signer is known from the request",
        "T51": "pkiConf carries no extraCerts",
        "T52": "HTTP of RFC 9811 (6712), begun by the base station",
    },
    "TS 33.310: network functions (clause 10, annex J)": {
        "T53": "What the first enrolment of a network function needs comes by OAM (V18)",
        "T54": "ACME for network functions (V19.5)",
    },
}

UNTESTED: Final[dict[Requirement, str]] = {
    "T54": OUTSIDE + "ACME is another protocol than the one spoken here",
}
"""Why a requirement has no test; an entry for one that has some is a mistake."""


def requirements() -> str:
    """Return the table as Markdown.

    Raises:
        ValueError: A requirement has neither test nor reason, or both.
    """
    tests = tests_by_requirement()
    parts = [PREFACE]
    for title, rows in REQUIREMENTS.items():
        parts.append(f"\n## {title}\n\n| | Requirement | Tests |\n|---|---|---|")
        parts.extend(
            f"| {_name(n)} | {text} | {_cell(n, tests.get(n, []))} |" for n, text in rows.items()
        )
    return "\n".join(parts) + "\n"


def tests_by_requirement() -> dict[Requirement, list[str]]:
    """Return the tests under each requirement, as "folder/file::test"."""
    found: dict[Requirement, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"))
        place = path.relative_to(ROOT / "tests").as_posix()
        for name, numbers in _tests(module.body, frozenset(_module_marks(module.body))):
            for number in numbers:
                found.setdefault(number, []).append(f"{place}::{name}")
    return found


def _name(requirement: Requirement) -> str:
    return f"R{requirement}" if isinstance(requirement, int) else requirement


def _cell(requirement: Requirement, tests: list[str]) -> str:
    reason = UNTESTED.get(requirement)
    if tests and reason is not None:
        raise ValueError(f"{_name(requirement)} has tests: drop its entry in UNTESTED")
    if not tests and reason is None:
        raise ValueError(f"{_name(requirement)} needs a test, or a reason in UNTESTED")
    return "<br>".join(f"`{test}`" for test in tests) if tests else str(reason)


def _tests(
    body: Iterable[ast.stmt], inherited: frozenset[Requirement]
) -> Iterator[tuple[str, frozenset[Requirement]]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _tests(node.body, inherited | set(_numbers(node.decorator_list)))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # A case of parametrize may carry marks of its own; they sit inside the decorators.
            numbers = inherited | set(_numbers(node.decorator_list))
            if numbers and node.name.startswith("test_"):
                yield node.name, numbers


def _module_marks(body: Iterable[ast.stmt]) -> Iterator[Requirement]:
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            yield from _numbers([node.value])


def _numbers(expressions: Iterable[ast.expr]) -> Iterator[Requirement]:
    for expression in expressions:
        for node in ast.walk(expression):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.requirement"):
                yield from (ast.literal_eval(argument) for argument in node.args)


if __name__ == "__main__":
    sys.stdout.write(requirements())
