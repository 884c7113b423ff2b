"""PKIFailureInfo and every exception this project raises on purpose.

    GatewayError
    |-- ConfigError                  the operator: a setting is wrong (all problems at once)
    |-- StatusRefused                the operator: what tells of revocations cannot be had, or not be used
    |   |-- CRLRefused               a CRL
    |   `-- OCSPRefused              an answer of an OCSP responder
    |-- StaleTransaction             nobody: a compare-and-set lost its race; reload and look again
    `-- CMPError(fail_info)          the wire
        |-- MalformedMessage         device: not DER, or not a PKIMessage
        |-- HeaderRefused            device: version, nonces, type not allowed now
        |   `-- TimeRefused          device: messageTime
        |-- ProtectionRefused        device: signature, algorithm, signer named but not matching
        |-- SignerNotTrusted         device or operator: no path to a configured anchor
        |   `-- AlreadyRevoked       device: it asks for its revocation once more
        |-- TransactionInUse         device: the transactionID belongs to another live request
        |-- TooManyTransactions      device: so many of its transactions live already
        |-- ConfirmationRefused      device: certConf does not fit what was issued
        |-- RequestRefused           in the body's answer (ip, cp, kup) instead of in an error
        |   |-- TemplateRefused      device or operator: what is asked for cannot be had
        |   |-- POPRefused           device: proof of possession missing or wrong
        |   `-- NotAuthorized        operator: the device is known but may not have this
        `-- ServiceFailure             the operator: our side failed
            |-- StatusUnavailable    whether a signer was revoked is not known
            |-- StoreUnavailable     the transaction store does not answer
            |-- UpstreamUnavailable  the CA does not answer
            `-- UpstreamBroken       the CA answered something that must not be relayed

What the device reads is `phrase`, a fixed sentence that names the class of the cause. What went wrong in
detail (`detail`) and which requirement refused it (`rule`) are for the log only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final

PRINTABLE_CHARS: Final = 4096
"""The longest text of others that is shown, unless a caller wants less."""

_INVISIBLE: Final = frozenset(
    # Letters and marks by Unicode's categories, but without a shape of their own.
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
) | {chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))}


def printable(text: str, limit: int = PRINTABLE_CHARS) -> str:
    """Return a text of others as it may meet a terminal, a log or a page.

    Whatever is not a visible character or a plain blank is written as an escape: controls, ESC, line ends,
    separators, marks of direction, characters of no width, surrogates, what Unicode does not assign. What is
    printable already stays as it is, so that a text may come through here more than once.

    Args:
        text: Of a device, a CA, a file or a network: of any length.
        limit: Characters that are left of it, at most; a longer one ends in dots and its own length.
    """
    if len(text) <= limit and text.isascii() and text.isprintable():
        return text
    # No more is looked at than is shown.
    shown = "".join(
        char if char.isprintable() and char not in _INVISIBLE else ascii(char)[1:-1]
        for char in text[:limit]
    )
    if len(text) <= limit and len(shown) <= limit:
        return shown
    mark = f"... ({len(text)} characters)"
    return shown[: max(limit - len(mark), 0)] + mark[:limit]


class PKIFailureInfo(IntEnum):
    """Bit numbers of PKIFailureInfo (RFC 9810 5.2.3), spelled as in the RFC."""

    badAlg = 0
    badMessageCheck = 1
    badRequest = 2
    badTime = 3
    badCertId = 4
    badDataFormat = 5
    wrongAuthority = 6
    incorrectData = 7
    missingTimeStamp = 8
    badPOP = 9
    certRevoked = 10
    certConfirmed = 11
    wrongIntegrity = 12
    badRecipientNonce = 13
    timeNotAvailable = 14
    unacceptedPolicy = 15
    unacceptedExtension = 16
    addInfoNotAvailable = 17
    badSenderNonce = 18
    badCertTemplate = 19
    signerNotTrusted = 20
    transactionIdInUse = 21
    unsupportedVersion = 22
    notAuthorized = 23
    systemUnavail = 24
    systemFailure = 25
    duplicateCertReq = 26


class GatewayError(Exception):
    """Root of every exception raised on purpose; anything else that escapes is a bug."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration: where (dotted path), what, and what to do about it."""

    path: str
    what: str
    todo: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}. {self.todo}"


class ConfigError(GatewayError):
    """The configuration cannot be used; `problems` lists everything found, not just the first."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))

    @classmethod
    def of(cls, path: str, what: str, todo: str) -> ConfigError:
        """Return the error of a single problem; arguments as of `Problem`."""
        return cls([Problem(path, what, todo)])


_EXTRAS: Final = {
    "sqlalchemy": "ca",
    "greenlet": "ca",
    "alembic": "ca",
    "pkilint": "ca",
    "asyncpg": "postgres",
    "pkcs11": "hsm",
}


def missing_extra(setting: str, error: ModuleNotFoundError) -> ConfigError:
    """Return what to install for a setting, or a command, that needs a module that is not there.

    Raises:
        ModuleNotFoundError: The one that was given, where it is none of an extra's.
    """
    module = (error.name or "").partition(".")[0]
    if module not in _EXTRAS:
        raise error
    todo = f"Run: pip install 'ra-gateway[{_EXTRAS[module]}]'"
    return ConfigError.of(setting, f"needs {module}, which is not installed", todo)


class StatusRefused(GatewayError):
    """What tells of revocations cannot be had, or not be used; the text says why, for the operator."""


class CRLRefused(StatusRefused):
    """A CRL cannot be used."""


class OCSPRefused(StatusRefused):
    """An answer of an OCSP responder cannot be used."""


class StaleTransaction(GatewayError):
    """A transaction changed in the store since it was read; reload it and decide again."""


class CMPError(GatewayError):
    """Something the peer is answered with a PKIStatusInfo for.

    Args:
        detail: For the log: what was expected, what was found. Never sent.
        fail_info: Overrides the class's usual PKIFailureInfo.
        rule: The requirement or clause that refused, for example "R26".
        phrase: Overrides the class's fixed text for the wire.
    """

    fail_info: PKIFailureInfo = PKIFailureInfo.badRequest
    phrase: str = "The request cannot be processed."
    in_body: ClassVar[bool] = False

    def __init__(
        self,
        detail: str,
        *,
        fail_info: PKIFailureInfo | None = None,
        rule: str = "",
        phrase: str | None = None,
    ) -> None:
        self.detail = detail
        self.rule = rule
        if fail_info is not None:
            self.fail_info = fail_info
        if phrase is not None:
            self.phrase = phrase
        super().__init__(f"{self.fail_info.name}: {detail}" + (f" ({rule})" if rule else ""))


class MalformedMessage(CMPError):
    fail_info = PKIFailureInfo.badDataFormat
    phrase = "The message is not a DER-encoded PKIMessage that conforms to CMP."


class HeaderRefused(CMPError):
    phrase = "The message header, or the message type at this point, is not acceptable."


class TimeRefused(HeaderRefused):
    fail_info = PKIFailureInfo.badTime
    phrase = "The messageTime is missing, or too far from the time here: check the clock."


class ProtectionRefused(CMPError):
    fail_info = PKIFailureInfo.badMessageCheck
    phrase = "The protection of the message cannot be accepted."


class SignerNotTrusted(CMPError):
    fail_info = PKIFailureInfo.signerNotTrusted
    phrase = "The certificate that protects the message is not trusted here."


class AlreadyRevoked(SignerNotTrusted):
    """Whoever asks for the revocation of its certificate has been heard before (RFC 9483 4.2): told in an rp."""

    fail_info = PKIFailureInfo.certRevoked
    phrase = "The certificate is revoked already."
    in_body = True


class TransactionInUse(CMPError):
    fail_info = PKIFailureInfo.transactionIdInUse
    phrase = "The transactionID belongs to another request; use a new one."


class TooManyTransactions(CMPError):
    """The signer has to wait until one of its transactions has expired."""

    fail_info = PKIFailureInfo.systemUnavail
    phrase = "Too many of your transactions are under way; try again later."


class RateExceeded(CMPError):
    """As many new requests come as are taken a second; nothing is kept of this one, and it may come again."""

    fail_info = PKIFailureInfo.systemUnavail
    phrase = "Too many requests at the moment; try again later."


class ConfirmationRefused(CMPError):
    fail_info = PKIFailureInfo.badCertId
    phrase = "The confirmation does not fit the certificate that was issued."


class RequestRefused(CMPError):
    """A failure in the body of a request: answered with ip, cp or kup, not with error (RFC 9483 3.6.4)."""

    phrase = "The certificate request is not acceptable."
    in_body = True


class TemplateRefused(RequestRefused):
    fail_info = PKIFailureInfo.badCertTemplate
    phrase = "The certificate template is not acceptable."


class POPRefused(RequestRefused):
    fail_info = PKIFailureInfo.badPOP
    phrase = "Possession of the private key was not proved."


class NotAuthorized(RequestRefused):
    fail_info = PKIFailureInfo.notAuthorized
    phrase = "The requester is not authorised for this request."


class ServiceFailure(CMPError):
    fail_info = PKIFailureInfo.systemFailure
    phrase = "The request could not be completed; try again later in a new transaction."


class StatusUnavailable(ServiceFailure):
    """Nobody can say whether a signer was revoked; nothing is wrong with the device, which may try later."""

    fail_info = PKIFailureInfo.systemUnavail
    phrase = "The service is temporarily unavailable; try again later."


class StoreUnavailable(ServiceFailure):
    fail_info = PKIFailureInfo.systemUnavail
    phrase = "The service is temporarily unavailable; try again later."


class UpstreamUnavailable(ServiceFailure):
    """The CA could not be reached, or did not answer in time.

    Args:
        delivered: False only when it is certain that the CA never saw the message.
    """

    fail_info = PKIFailureInfo.systemUnavail
    phrase = "The certification authority is temporarily unavailable; try again later."

    def __init__(self, detail: str, *, delivered: bool, rule: str = "R90") -> None:
        self.delivered = delivered
        super().__init__(detail, rule=rule)


class UpstreamBroken(ServiceFailure):
    """The CA's answer must not reach the device; never told as the device's own fault.

    `certificate_der` is the certificate that came with the answer, if one did: it was issued for nobody.
    `id_in_use` is whether the CA says that another request has the transactionID.
    """

    certificate_der: bytes = b""
    id_in_use: bool = False
    phrase = "The certification authority gave an answer that cannot be used."
