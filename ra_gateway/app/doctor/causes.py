"""What is likely to be behind what a CA says, and what to change: a table, and how it is read.

The texts are those of EJBCA, which says badRequest to nearly everything, of the bundled CA, of `openssl cmp`, and of
our own HTTP client. They are searched without regard to case; the first row that fits is the one.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from ra_gateway.app.doctor.findings import Verdict
from ra_gateway.cmp.codes import BodyType
from ra_gateway.errors import PKIFailureInfo

_KUR: Final = frozenset({BodyType.kur})
_RR: Final = frozenset({BodyType.rr})
_GENM: Final = frozenset({BodyType.genm})
_NEW: Final = frozenset({BodyType.ir, BodyType.cr, BodyType.p10cr})

RA_RIGHTS: Final = (
    "EJBCA role of the RA: /ca/<id>, /ca_functionality/create_certificate, "
    "/ra_functionality/create_end_entity, /ra_functionality/edit_end_entity, "
    "/endentityprofilesrules/<id>/create_end_entity and edit_end_entity "
    '(with the profile EMPTY: "/")'
)

_ALIAS: Final = "EJBCA alias: "


@dataclass(frozen=True, slots=True)
class Cause:
    """One row.

    Args:
        cause: What is likely to be wrong.
        setting: What to change; "{name}" stands for the name of the upstream.
        text: Part of the text, in small letters; "" for any.
        fail_info: One of the bits; None for any or none.
        requests: Which requests it is about; empty for all.
        verdict: warning where base stations may be served all the same.
    """

    cause: str
    setting: str
    text: str = ""
    fail_info: PKIFailureInfo | None = None
    requests: frozenset[BodyType] = frozenset()
    verdict: Verdict = Verdict.fault

    def fits(self, text: str, fail_info: Collection[PKIFailureInfo], request: BodyType) -> bool:
        """Tell whether the row is about an answer to a request; `text` in small letters."""
        return (
            self.text in text
            and (self.fail_info is None or self.fail_info in fail_info)
            and (not self.requests or request in self.requests)
        )


_OF_KUR: Final = (
    Cause(
        "the alias cannot authenticate a kur without EndEntityCertificate",
        f"{_ALIAS}authenticationmodule must have EndEntityCertificate",
        "authentication module is not configured",
        requests=_KUR,
    ),
    Cause(
        "the template of the kur has no subject, by which EJBCA finds the end entity",
        'upstreams.{name}.kur = "reprotect", so that the gateway fills subject and issuer in',
        "cannot find a subjectdn",
        requests=_KUR,
    ),
    Cause(
        "the newest certificate with that subject is revoked or has expired; it cannot be renewed",
        "EJBCA: the device needs a new first enrolment (ir)",
        "unable to perform key update",
        requests=_KUR,
    ),
    Cause(
        "the newest certificate with that subject has expired; it cannot be renewed",
        "EJBCA: the device needs a new first enrolment (ir)",
        "is expired",
        requests=_KUR,
    ),
    Cause(
        "EJBCA has no end entity with that subject and issuer",
        "EJBCA: compare the order of the subject's parts and the issuer with the end entity's",
        "non-existing end entity",
        requests=_KUR,
    ),
    Cause(
        "the key is the one of the old certificate",
        f"{_ALIAS}allowupdatewithsamekey = true, or have the devices make new keys",
        "keyupdaterequest is the same",
        requests=_KUR,
    ),
    Cause(
        "EJBCA does not renew an end entity that has its certificate",
        f"{_ALIAS}allowautomatickeyupdate = true",
        "status generated",
        requests=_KUR,
    ),
    Cause(
        "EJBCA has no end entity with that subject and issuer",
        "EJBCA: compare the order of the subject's parts and the issuer with the end entity's",
        "not found",
        PKIFailureInfo.badMessageCheck,
        _KUR,
    ),
)

_OF_EJBCA: Final = (
    Cause(
        "the message came unprotected, or something on the way took its protection off",
        "ra.certificate_path and ra.key_path; nothing between gateway and CA may change messages",
        "no pki protection is found",
    ),
    Cause(
        "the RA certificate did not arrive in extraCerts, or only CA certificates did",
        "ra.certificate_path: the RA certificate first, not a CA's",
        "reading a certificate from the extracert",
    ),
    Cause(
        "the RA certificate is unknown to EJBCA",
        "EJBCA: issue the RA's certificate there, or import it; or web.reqcertindb = false",
        "could not be found in the database",
    ),
    Cause(
        "the RA certificate is revoked in EJBCA",
        "ra.certificate_path and ra.key_path: a new certificate",
        "is revoked",
    ),
    Cause(
        "the RA certificate is not active in EJBCA",
        "ra.certificate_path and ra.key_path: a new certificate",
        "is not active",
    ),
    Cause(
        "the RA certificate has expired by the CA's clock",
        "ra.certificate_path: a new certificate; or the clock of either machine",
        "certificate has expired",
    ),
    Cause(
        "the RA certificate is not valid yet by the CA's clock",
        "the clock of either machine (NTP)",
        "not yet valid",
    ),
    Cause(
        "the alias expects RA certificates of another CA",
        f"{_ALIAS}authenticationparameters = name of the CA that issued the RA certificate",
        "chain is invalid",
    ),
    Cause(
        "the alias expects RA certificates of another CA",
        f"{_ALIAS}authenticationparameters = name of the CA that issued the RA certificate",
        "certificate chain",
    ),
    Cause(
        "the RA certificate is in no role or its role lacks rights; or the alias names a CA or profile "
        "that does not exist",
        f"{RA_RIGHTS}; {_ALIAS}ra.caname, ra.endentityprofile, ra.certificateprofile",
        "not an authorized administrator",
    ),
    Cause(
        "the alias is in vendor certificate mode, which is for devices without a gateway",
        "upstreams.{name}.url: the alias in RA mode; or EJBCA alias: vendorcertificatemode = false",
        "configured vendor cas",
    ),
    Cause(
        "EJBCA took another certificate for the signer's, or cannot verify this kind of signature (RSASSA-PSS)",
        "ra.chain_paths: CA certificates only; ra.key_path: an EC key, or RSA without PSS",
        "failed to verify the signature",
    ),
    Cause(
        "the alias is in client mode, and the request names another end entity than the RA's",
        f"{_ALIAS}operationmode = ra",
        "does not belong to user",
    ),
    Cause(
        "omitverifications needs RA mode and an authenticated nested message",
        f"{_ALIAS}ra.endentitycertificate.omitverifications = false",
        "omitting some verifications",
    ),
    Cause(
        "the alias is in client mode, and the end entity already has its certificate",
        f"{_ALIAS}operationmode = ra; or reset the end entity to NEW",
        "status generated",
    ),
    Cause(
        "the alias is in client mode: it knows only end entities that were registered before",
        f"{_ALIAS}operationmode = ra; or upstreams.{{name}}.url: the alias in RA mode",
        "not found",
        PKIFailureInfo.badMessageCheck,
        _NEW,
    ),
    Cause(
        "the request has no subject",
        'vendors.<name>.identity.subject = "derive" with a subject_template',
        "dn name can not be null",
    ),
    Cause(
        "the names of the request do not fit the end entity profile",
        "EJBCA end entity profile of the alias (its subject and SAN fields); or doctor --subject and --san "
        "with names like your devices'",
        "wrong number of",
        verdict=Verdict.warning,
    ),
    Cause(
        "the CA that the alias names does not exist, or the RA has no access to it",
        f"{_ALIAS}ra.caname",
        "does not exist",
        PKIFailureInfo.incorrectData,
    ),
    Cause(
        "a profile that the alias names does not exist, or EJBCA's crypto token is not to be had",
        f"{_ALIAS}ra.endentityprofile and ra.certificateprofile",
        "profile",
        PKIFailureInfo.systemUnavail,
    ),
    Cause(
        "the certificate of the gateway is not among those that may sign nested messages",
        f"{_ALIAS}racertificatepath: put the RA certificate there (PEM), on EJBCA's machine",
        "could not verify the ra",
    ),
    Cause(
        "the certificate of the gateway is not among those that may sign nested messages",
        f"{_ALIAS}racertificatepath: put the RA certificate there (PEM), on EJBCA's machine",
        "nestedmessagecontent failed",
    ),
    Cause(
        "messages are nested in a loop: the upstream leads back to a gateway",
        "upstreams.{name}.url and upstreams.{name}.kur",
        "unreasonable level of nesting",
    ),
    Cause(
        "authenticationmodule and authenticationparameters do not have the same number of entries, "
        "or name what the mode does not have",
        f"{_ALIAS}authenticationmodule = EndEntityCertificate, "
        "authenticationparameters = name of the CA that issued the RA certificate",
        "cmp module configuration error",
    ),
    Cause(
        "vendor certificate mode and RA mode exclude each other",
        f"{_ALIAS}vendorcertificatemode = false",
        "cannot be combined",
    ),
    Cause(
        "the CA cannot read the message; something on the way may have changed it",
        "upstreams.{name}.url and proxy: nothing between gateway and CA may change messages",
        "not a valid cmp message",
    ),
    Cause(
        "an operator of the CA has to approve of requests",
        "EJBCA: approvals of the CA and of the certificate profile off",
        "approval",
        PKIFailureInfo.notAuthorized,
    ),
)

_OF_HTTP: Final = (
    Cause(
        "there is nothing at this URL; at EJBCA: no such alias",
        "upstreams.{name}.url (or urls): /ejbca/publicweb/cmp/<alias>, with the alias spelled as in EJBCA",
        "http 404",
    ),
    Cause(
        "something else than a CMP server takes what is posted there",
        "upstreams.{name}.url (or urls)",
        "http 405",
    ),
    Cause(
        "at EJBCA: the alias has more than 32 characters, or the message more than 100000 bytes, or a proxy "
        "took its length away",
        "upstreams.{name}.url (or urls): a shorter alias; server.max_body_bytes",
        "http 400",
    ),
    Cause(
        "the CA failed inside; at EJBCA: an exception, like a kur without an earlier certificate",
        "the log of the CA; EJBCA: crypto token active, alias saved once in the GUI",
        "http 500",
    ),
    Cause(
        "the CA, or what stands in front of it, is overloaded, starting or stopped",
        "the CA's service and its rate limits",
        "http 503",
    ),
    Cause(
        "the CA, or what stands in front of it, limits how often it is asked",
        "the rate limit in front of the CA, for the address of the gateway",
        "http 429",
    ),
    Cause(
        "what stands in front of the CA does not reach it",
        "the proxy in front of the CA",
        "http 502",
    ),
    Cause(
        "what stands in front of the CA does not reach it in time",
        "the proxy in front of the CA",
        "http 504",
    ),
    Cause("the URL wants a login", "the web server in front of the CA", "http 401"),
    Cause(
        "the web server in front of the CA does not let the gateway in",
        "its access rules; with mutual TLS upstreams.{name}.tls_certificate_path",
        "http 403",
    ),
    Cause(
        "the URL leads on to another one, which is not followed",
        "upstreams.{name}.url (or urls): the URL where the CA is",
        "http 30",
    ),
    Cause(
        "the CA's answers are larger than is allowed",
        "upstreams.{name}.max_response_bytes",
        "with more than",
    ),
    Cause(
        "a web page instead of CMP: this is not the URL of a CMP server",
        "upstreams.{name}.url (or urls)",
        "without a cmp message",
    ),
    Cause("what answers there does not speak HTTP", "upstreams.{name}.url (or urls)", "not http"),
    Cause(
        "the server ended the connection over the gateway's TLS certificate",
        "upstreams.{name}.tls_certificate_path and tls_key_path",
        "_alert_",
    ),
    Cause(
        "the CA does not answer in time",
        "upstreams.{name}.deadline_seconds; the load of the CA and of its HSM",
        "no answer in time",
    ),
    Cause(
        "the proxy does not let the gateway through",
        "upstreams.{name}.proxy",
        "the proxy does not connect",
    ),
)

_OF_FAIL_INFO: Final = (
    Cause(
        "the gateway had to change a request, and the CA does not take its word for the proof (raVerified)",
        f"{_ALIAS}allowraverifypopo = true; or vendors.<name>.identity: leave subjects and names as asked for",
        fail_info=PKIFailureInfo.badPOP,
    ),
    Cause(
        "the CA answers no such questions",
        'endpoints.<name>.genm.ca_certs = "local" (or "deny")',
        requests=_GENM,
        verdict=Verdict.warning,
    ),
    Cause(
        "the RA may not have certificates revoked: those that devices reject stay valid",
        "EJBCA role of the RA: /ra_functionality/revoke_end_entity and /ca/<id>; "
        "bundled CA: the privilege revoke in the RA's role (ra-gateway ca role add)",
        fail_info=PKIFailureInfo.notAuthorized,
        requests=_RR,
        verdict=Verdict.warning,
    ),
    Cause(
        "the CA does not know the RA certificate, or does not trust whoever issued it",
        "the CA's list of RAs: add ra.certificate_path; bundled CA: ra-gateway ca ra add",
        fail_info=PKIFailureInfo.signerNotTrusted,
    ),
    Cause(
        "the CA does not know the RA, has blocked it, or does not let it ask for this",
        "the CA's rights of the RA; bundled CA: ra-gateway ca ra list and ra-gateway ca ra show: is it registered with "
        f"this certificate, is it blocked, what are its privileges? {RA_RIGHTS}",
        fail_info=PKIFailureInfo.notAuthorized,
    ),
    Cause(
        "the clocks of gateway and CA differ more than the CA bears",
        "the clock of either machine (NTP)",
        fail_info=PKIFailureInfo.badTime,
    ),
    Cause(
        "the CA expects another kind of protection (a MAC instead of a signature, or the reverse)",
        "the CA's authentication of RAs: by certificate; EJBCA alias: authenticationmodule",
        fail_info=PKIFailureInfo.wrongIntegrity,
    ),
    Cause(
        "the CA could not verify the gateway's signature: it does not know the RA certificate, or something "
        "on the way changed the message",
        "the CA's list of RAs: add ra.certificate_path; ra.chain_paths: the whole chain below the root",
        fail_info=PKIFailureInfo.badMessageCheck,
    ),
    Cause(
        "the CA does not take the algorithm of the RA's key, or of the probe's (ECDSA P-256)",
        "ra.key_path: another kind of key; or the CA's list of algorithms",
        fail_info=PKIFailureInfo.badAlg,
    ),
    Cause(
        "the recipient is another CA than the one at this URL; at EJBCA: the CA of the end entity is missing",
        "upstreams.{name}.recipient = subject of the issuing CA; EJBCA alias: defaultca",
        fail_info=PKIFailureInfo.wrongAuthority,
    ),
    Cause(
        "the CA certifies no such subject or key as the probe's",
        "doctor --subject and --san with names like your devices'; the CA's profile",
        fail_info=PKIFailureInfo.badCertTemplate,
        verdict=Verdict.warning,
    ),
    Cause(
        "the CA refuses the names of the probe, or its CA or profile is missing",
        f"{_ALIAS}ra.caname and ra.endentityprofile; doctor --subject and --san",
        fail_info=PKIFailureInfo.incorrectData,
    ),
    Cause(
        "the CA takes another version of CMP",
        "the CA: CMP version 2",
        fail_info=PKIFailureInfo.unsupportedVersion,
    ),
    Cause(
        "the CA is out of order at the moment",
        "the log of the CA; its crypto token or HSM, its database",
        fail_info=PKIFailureInfo.systemUnavail,
    ),
    Cause(
        "the CA failed inside",
        "the log of the CA",
        fail_info=PKIFailureInfo.systemFailure,
    ),
)

CAUSES: Final = (*_OF_KUR, *_OF_EJBCA, *_OF_HTTP, *_OF_FAIL_INFO)
"""All rows, in the order in which they are tried."""

UNKNOWN: Final = Cause(
    "the CA does not say; its log does",
    "the CA's settings for this gateway; its log has the reason",
)


def explain(text: str, fail_info: Collection[PKIFailureInfo], request: BodyType) -> Cause:
    """Return what is likely to be behind an answer.

    Args:
        text: statusString, or what the HTTP client says.
        request: What it answers.
    """
    folded = text.casefold()
    return next((row for row in CAUSES if row.fits(folded, fail_info, request)), UNKNOWN)


def explain_text(text: str) -> list[Cause]:
    """Return every row that a line of a log may be about: by its text, else by the names of failInfo in it."""
    folded = text.casefold()
    found = [row for row in CAUSES if row.text and row.text in folded]
    return found or [
        row
        for row in CAUSES
        if row.fail_info is not None and not row.text and row.fail_info.name.casefold() in folded
    ]
