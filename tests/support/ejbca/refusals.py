"""How EJBCA says no."""

from __future__ import annotations

from ra_gateway.errors import PKIFailureInfo


class Refused(Exception):
    """A CMP message that says no.

    Args:
        text: The statusString.
        fail_info: None where what EJBCA sends is not known; nothing is sent then.
        in_body: Whether it is a rejection in ip, cp or kup instead of an error.
    """

    def __init__(
        self, text: str, fail_info: PKIFailureInfo | None, *, in_body: bool = False
    ) -> None:
        self.text = text
        self.fail_info = () if fail_info is None else (fail_info,)
        self.in_body = in_body
        super().__init__(text)


def bad_request(text: str) -> Refused:
    """Return an error with badRequest, which is what most of EJBCA's errors have."""
    return Refused(text, PKIFailureInfo.badRequest)


class HTTPRefusal(Exception):
    """An HTTP status without a CMP message; `page` is the HTML that comes with it."""

    def __init__(self, status: int, page: str = "") -> None:
        self.status = status
        self.page = page
        super().__init__(f"HTTP {status}")
