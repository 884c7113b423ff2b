"""What is posted to services of the operator's, signed as Standard Webhooks has it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Final

from ra_gateway.errors import ConfigError
from ra_gateway.files import read_bounded

_PREFIX: Final = "whsec_"
_SECRET_OCTETS: Final = (24, 64)
"""As Standard Webhooks has it."""


def signed_headers(key: bytes, body: bytes, at: int) -> dict[str, str]:
    """Return the headers by which a body shows who has sent it.

    Args:
        at: Seconds since 1970, UTC.
    """
    name = f"msg_{secrets.token_hex(16)}"
    mac = hmac.digest(key, f"{name}.{at}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }


def webhook_secret(path: Path, setting: str) -> bytes:
    """Return the key in a file.

    Args:
        setting: Dotted path of the key that names it, for errors.

    Raises:
        ConfigError: It is none; no text repeats it.
    """
    try:
        text = read_bounded(path).decode("utf-8-sig").strip()
    except OSError as error:
        todo = "Make it readable for the user the gateway runs as"
        raise ConfigError.of(setting, f"cannot be read: {error.strerror}", todo) from error
    except UnicodeDecodeError:
        text = ""
    key = b""
    if text.startswith(_PREFIX):
        try:
            key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
    if not _SECRET_OCTETS[0] <= len(key) <= _SECRET_OCTETS[1]:
        what = f"holds no secret of a webhook: {_PREFIX} and the base64 of 24 to 64 octets"
        todo = f"Make one, for both sides: echo {_PREFIX}$(openssl rand -base64 32)"
        raise ConfigError.of(setting, what, todo)
    return key
