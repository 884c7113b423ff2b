"""What is set of endpoints and of ways to a CA, as it stands in the file; `endpoints` is what runs."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from ra_gateway.cmp.quirks import Strictness
from ra_gateway.ra.dialects import DIALECTS
from ra_gateway.settings.values import DN, CAPath, Name, Table, WholeSeconds


class Variant(StrEnum):
    """How a request goes up (RFC 9483 5.2)."""

    reprotect = "reprotect"  # under the RA's signature
    nested = "nested"  # untouched, inside an RA-signed nested message
    forward = "forward"  # untouched


class CertConf(StrEnum):
    """Who answers certConf."""

    forward = "forward"  # the CA
    local = "local"  # the RA: for CAs that do not read certConf
    # The RA, which asks the CA for implicitConfirm; the CA where that grants none
    implicit = "implicit"


class Unconfirmed(StrEnum):
    """What becomes of a certificate that its device rejected, or never confirmed."""

    leave = "leave"  # nothing: the CA looks after it
    report = "report"  # the operator is told
    revoke = "revoke"  # an rr to the CA, again and again until it is answered


class POP(StrEnum):
    """What a CA sees of the proof of possession, where a request goes up re-protected."""

    keep = "keep"  # the device's, unless the RA had to change what it proves
    ra_verified = "raverified"  # the RA's word, always


class CAQuirk(StrEnum):
    """What some CAs answer, and where it is told never to be taken as more than it is."""

    # An ip, cp or kup that says no: it counts as no
    unprotected_rejection = "unprotected_rejection"
    unprotected_pkiconf = "unprotected_pkiconf"  # the CA did not read the certConf anyway
    # By a signer of earlier answers, who is not sent again
    pkiconf_without_certificates = "pkiconf_without_certificates"


class Approval(StrEnum):
    """Which requests for a certificate wait until an operator has decided."""

    none = "none"
    required = "required"  # all
    unlisted = "unlisted"  # of devices that the inventory does not list


class ImplicitConfirm(StrEnum):
    """Whether a grant of the CA reaches the device (TS 33.310 profiles explicit confirmation)."""

    deny = "deny"
    relay = "relay"


class CaPubs(StrEnum):
    """What caPubs of an ip holds towards the device."""

    drop = "drop"
    relay = "relay"
    root = "root"


class Informing(StrEnum):
    """Who answers a question."""

    forward = "forward"  # the CA
    local = "local"  # the RA
    deny = "deny"  # nobody


class SubjectRule(StrEnum):
    """Where the certificate's subject comes from."""

    keep = "keep"  # the template's; a template without one is refused
    derive = "derive"  # the template's; from the vendor certificate where it has none
    # The key's own word; that texts have a method of this name is nothing to a rule.
    replace = "replace"  # type: ignore[assignment]  # always from the vendor certificate or the inventory


class InventoryUse(StrEnum):
    """Whether a device must be in the inventory."""

    none = "none"
    optional = "optional"
    required = "required"


class IssuingSettings(Table):
    """What is set of every way to a CA."""

    expected_subject: Literal["requested", "any"] = "requested"
    """ "requested" refuses a certificate with another subject than asked for; "any" is for test servers that always
    return the same one.
    """
    unconfirmed: Unconfirmed = Unconfirmed.leave
    """What becomes of a certificate that its device rejects or does not confirm in time: "leave" trusts the CA to see
    to it; "report" logs it; "revoke" has the CA revoke it, for a CA that does not read certConf. With "report" and
    "revoke" an answer that was lost is seen to as well: where the CA replays it is asked again, and otherwise
    `answer.lost` is logged. A CA that revokes by itself what is not confirmed needs none of that.
    """
    unconfirmed_reason: Literal[0, 4, 5] = 5
    """reasonCode of that revocation: 0 unspecified, 4 superseded, 5 cessationOfOperation. The default says that the
    certificate is not used any more, nor replaced.
    """


class UpstreamSettings(IssuingSettings):
    """What is set of a way to a CA that speaks CMP, as it stands in the file."""

    kur: Variant = Variant.reprotect
    """How a key update goes up: "reprotect" signed by the RA (CA in RA mode; the CA relies on the gateway's check of
    the old key); "nested" untouched inside an RA-signed message; "forward" untouched.
    """
    dialect: Name | None = Field(
        default=None,
        description="Sets what this kind of CA needs for the keys below that the table leaves out: "
        f"{', '.join(DIALECTS)}, or one of `[dialects.<name>]`.",
    )
    requests: Variant = Variant.reprotect
    """How ir, cr, p10cr and rr go up, as kur does. With another value than "reprotect" the gateway cannot set a
    device's identity: a request that would need it is refused.
    """
    ir_as_cr: bool = False
    """Whether an ir goes up as cr, for a CA that takes ir from devices alone: its cp comes down as ip. Only where
    requests is "reprotect".
    """
    key_generation: Literal[Variant.nested, Variant.forward] = Variant.nested
    """How a request goes up whose key the CA is to make, which must stay as its device protected it."""
    certconf: CertConf = CertConf.forward
    """ "forward" lets the CA answer certConf; "local" has the gateway answer it, for a CA that ignores confirmations
    (EJBCA); "implicit" asks the CA for implicitConfirm, and has the gateway answer certConf where that is granted.
    """
    pop: POP = POP.keep
    """ "keep" sends the device's proof of possession on, unless its request had to be changed; "raverified" always
    sends the gateway's word for it. It was verified either way.
    """
    kur_names_issuer: bool = False
    """Whether a kur names the issuer of the old certificate in its template, for a CA that finds that certificate by
    subject and issuer (EJBCA).
    """
    max_pvno: Literal[2, 3] = 3
    """Highest version of CMP that the CA speaks. The default leaves it to the device."""
    ids: Literal["keep", "map"] = "keep"
    """ "keep" shows the CA the device's transactionID and senderNonce; "map" others of 16 octets, for a CA that refuses
    the short ones of some base stations.
    """
    send_root: bool = False
    """Whether messages to the CA carry the root of the RA certificate too, for a CA that wants the whole chain; by
    default extraCerts end below it (RFC 9483 3.3). `ra-gateway check-config` says what goes up.
    """
    genm: bool = True
    """Whether the CA answers genm; if not, a question that is for the CA is refused."""
    tolerate: tuple[CAQuirk, ...] = ()
    """What is borne of the CA's answers. "unprotected_rejection": a rejection without protection counts as one;
    "unprotected_pkiconf": so does a pkiConf; "pkiconf_without_certificates": a pkiConf may be signed by whoever signed
    an earlier answer.
    """
    path: CAPath = Field(default="", max_length=200)
    """Profile or alias on the CA's side, appended to its URL after a slash."""
    recipient: DN | None = None
    """Recipient in messages to the CA, in the form of RFC 4514; by default the issuer of the RA certificate. EJBCA
    selects its CA by it.
    """
    orig_message: bool = False
    """Whether the device's own message goes along as origPKIMessage, for a CA that wants to see its protection and
    proof of possession.
    """
    device_info: bool = False
    """Whether requests of base stations say whose they are and what their vendor calls them (utf8Pairs in generalInfo),
    for a bundled CA in a process of its own, whose ledger keeps it; by default only the one in this process is told.
    """
    rr_certificate: bool = False
    """Whether an rr carries the certificate that it names among its extraCerts: for a gateway behind which this one is
    an RA bound to names. EJBCA takes it for the signer's.
    """


class EndpointSettings(Table):
    """What is set of an endpoint besides who may come and where that goes, as it stands in the file."""

    p10cr_cert_req_id: Literal[-1, 0] = -1
    """certReqId in answers to p10cr: -1 as RFC 9810 has it (erratum 8806 of RFC 9483), 0 for devices and other RAs that
    want that.
    """
    key_generation: bool = False
    """Whether a request without a key is taken, for the CA to make one (RFC 9483 4.1.6); not with strictness "3gpp"."""
    encrypted_certificates: bool = False
    """Whether a key that cannot sign (ML-KEM, RSA for encryption) may be certified: the certificate comes encrypted,
    and certConf proves that it could be read. Not with strictness "3gpp".
    """
    only_routes: bool = False
    """Whether a request that no route fits is refused, in place of going to `upstream`."""
    implicit_confirm: ImplicitConfirm = ImplicitConfirm.deny
    """ "deny" always runs certConf and pkiConf, as TS 33.310 has it; "relay" grants implicitConfirm when the device
    asks for it and the CA grants it.
    """
    strictness: Strictness = Strictness.three_gpp
    """ "lenient" accepts what RFC 9810 allows and can be processed safely, "3gpp" follows TS 33.310, "strict" follows
    RFC 9483 to the letter. No setting weakens authentication.
    """
    message_time_window_seconds: WholeSeconds = Field(default=300, ge=1, le=86_400)
    """How far messageTime may be from the gateway's clock, either way, in seconds; beyond it: badTime. Less than half
    of `store.transaction_lifetime_seconds`. The default is the usual one of CMP servers (XiPKI) and of Kerberos.
    """
    require_message_time: bool = False
    """Whether a message without messageTime is refused; real base stations often send none."""
    ca_pubs: CaPubs = CaPubs.drop
    """caPubs of ip: "drop" leaves it out (the operator root is in extraCerts), "relay" passes the CA's on, "root" puts
    the operator roots in.
    """
    kup_root: bool = False
    """Whether kup carries the operator's root, for a client that wants a self-signed certificate in every answer
    (ONAP's CertService). It has the root already, so that TS 33.310 9.5.4.4 leaves it out; ip and cp always carry it.
    """
    pkiconf_certificates: bool | None = None
    """Whether pkiConf carries the certificates of its signer, for a client that forgets those of the answer before.
    Unset, it does, but for base stations at strictness "3gpp": TS 33.310 9.5.4.5 has none there. Other RAs always get
    them for what they sign or nest; one that passes on a device's messages as they are ("forward") gets what the device
    does, and has to `tolerate` "pkiconf_without_certificates".
    """
    extra_certs_max_count: int = Field(default=12, ge=1, le=256)
    """Most certificates in extraCerts of a request; more are refused before a path is sought. The default is four times
    a vendor's usual chain of three.
    """
    confirm_wait_seconds: WholeSeconds = Field(default=300, ge=1, le=86_400)
    """confirmWaitTime told to the device where the CA does not set one, in seconds: by then it should send certConf.
    The default is that of other CMP servers (XiPKI).
    """
    wait_after_seconds: float = Field(default=10.0, ge=0, le=300, allow_inf_nan=False)
    """A device whose CA has not answered by then is told to wait and poll, in seconds; 0 for never: it is held up until
    the upstream's deadline, and then gets systemUnavail. The default is less than that deadline (15 s), and well before
    clients give up (some 30 s).
    """
    check_after_seconds: WholeSeconds = Field(default=10, le=86_400)
    """How long a device that waits is told to let pass between two polls, in seconds, where the CA does not say. The
    default is as long as one poll may last, so that a waiting device takes up half a connection.
    """
    approval: Approval = Approval.none
    """Which requests for a certificate wait until an operator decides (`ra-gateway approvals`): "required" all;
    "unlisted" those of devices that `[inventory]` does not list: all but renewals and other requests under an operator
    certificate. What comes by other RAs or under shared secrets is listed by the domain `ra:` or `mac:` and the
    endpoint's name, and by the subject asked for in the place of the identity. Their devices poll meanwhile. Needs
    `store.kind` = "redis".
    """
    approval_seconds: WholeSeconds = Field(default=604_800, ge=60, le=2_592_000)
    """How long a request waits for an operator at most, in seconds, or for a CA that says waiting; then the device has
    to begin again. The default of a week outlasts a long weekend.
    """
