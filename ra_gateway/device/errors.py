"""Why the operation of a base station failed, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ra_gateway.cmp.bodies import PKIStatusInfo
from ra_gateway.cmp.codes import BodyType, PKIStatus
from ra_gateway.errors import CMPError, GatewayError, PKIFailureInfo

_ADVICE: Final = {
    PKIFailureInfo.signerNotTrusted: "The root of the device's certificate must be an anchor of a trust "
    "domain there, the certificate within its validity, and the chain in extraCerts",
    PKIFailureInfo.badMessageCheck: "Check that certificate and private key of the device belong together",
    PKIFailureInfo.badAlg: "Use ECDSA or RSA with SHA-256 or better",
    PKIFailureInfo.badTime: "Set the clock of the device, or send no messageTime",
    PKIFailureInfo.badPOP: "Check that the new key signed the request",
    PKIFailureInfo.badCertTemplate: "Change the subject, the names or the key that is asked for",
    PKIFailureInfo.notAuthorized: "The operator must admit this device and the subject it asks for",
    PKIFailureInfo.transactionIdInUse: "Start again; each operation draws a new transactionID",
    PKIFailureInfo.systemUnavail: "Try again later in a new operation",
    PKIFailureInfo.systemFailure: "Try again later in a new operation; the log of the gateway has the cause",
}


class EnrollmentFailed(GatewayError):
    """The operation ended without a certificate; `todo` says what to do next."""

    def __init__(self, what: str, todo: str = "") -> None:
        self.what = what
        self.todo = todo
        sentence = f"{what.removesuffix('.')}."
        super().__init__(f"{sentence} {todo}." if todo else sentence)


class EnrollmentRefused(EnrollmentFailed):
    """The other side refused.

    Args:
        status_info: As received.
        body_type: Of the message that told it: ip, cp, kup or error.
        doubt: Why the refusal itself could not be authenticated, "" if it could. Anybody on the line can
            make the operation fail, so that a refusal is reported all the same.
    """

    def __init__(self, status_info: PKIStatusInfo, body_type: BodyType, doubt: str = "") -> None:
        self.status_info = status_info
        self.body_type = body_type
        self.doubt = doubt
        waiting = status_info.status is PKIStatus.waiting
        what = "told to wait where that cannot be" if waiting else "refused"
        text = f"{what} with {body_type.name}: {status_info}"
        if doubt:
            text += f" (not authenticated: {doubt})"
        super().__init__(
            text, next((_ADVICE[bit] for bit in status_info.fail_info if bit in _ADVICE), "")
        )

    @property
    def authenticated(self) -> bool:
        """Whether the refusal is known to come from the operator."""
        return not self.doubt


class AnswerUntrusted(EnrollmentFailed):
    """An answer that is malformed, belongs to another request, or comes from nobody the device trusts."""


class CertificateRejected(EnrollmentFailed):
    """The operator issued a certificate that the device cannot use."""


@contextmanager
def doubting() -> Iterator[None]:
    """Turn a CMPError into AnswerUntrusted."""
    try:
        yield
    except CMPError as error:
        raise AnswerUntrusted(
            f"the answer is not trusted: {error.detail}",
            "Check the URL, and the operator root that the device was given",
        ) from error
