"""The name of a private key in an HSM (RFC 7512), and the file with the PIN that goes with it."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

from ra_gateway.errors import GatewayError
from ra_gateway.files import open_to_read

SCHEME: Final = "pkcs11:"
"""What the one line of a key file begins with when the key is in an HSM."""

_MAX_PIN_BYTES: Final = 1024
_MAX_URI_CHARACTERS: Final = 4096
_EXAMPLE: Final = (
    "pkcs11:token=ra;object=issuing?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:pin"
)
_UNRESERVED: Final = r"A-Za-z0-9\-._~:\[\]@!$'()*+,="
_PATH_VALUE: Final = re.compile(rf"(?:[{_UNRESERVED}&]|%[0-9A-Fa-f]{{2}})+")
_QUERY_VALUE: Final = re.compile(rf"(?:[{_UNRESERVED}/?|]|%[0-9A-Fa-f]{{2}})+")
_PATH_NAMES: Final = ("token", "serial", "object", "id", "type")
_QUERY_NAMES: Final = ("module-path", "pin-source")


class Trouble(GatewayError):
    """What is wrong with an HSM or with the naming of a key, in words for whichever error it becomes.

    Args:
        final: Trying again would be wrong: tokens lock themselves after a few wrong PINs.
    """

    def __init__(self, what: str, todo: str, *, final: bool = False) -> None:
        self.what = what
        self.todo = todo
        self.final = final
        super().__init__(what)


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of a private key in an HSM.

    Args:
        token, serial: Label and serial number of the token; at least one of them.
        object, id: CKA_LABEL and CKA_ID of the key; at least one of them.
        module_path: The HSM's PKCS#11 library, absolute.
        pin_path: File with the PIN, absolute; None for a token without one.
    """

    token: str | None
    serial: str | None
    object: str | None
    id: bytes | None
    module_path: Path
    pin_path: Path | None

    def __str__(self) -> str:
        parts = {
            "token": self.token,
            "serial": self.serial,
            "object": self.object,
            "id": self.id.hex() if self.id is not None else None,
        }
        return ", ".join(f"{name} {text}" for name, text in parts.items() if text is not None)


def parse(uri: str, directory: Path) -> Reference:
    if not uri.startswith(SCHEME) or len(uri) > _MAX_URI_CHARACTERS:
        raise Trouble(
            "the name of the key is not one line that begins with pkcs11:", f"Write {_EXAMPLE}"
        )
    path, _, query = uri.removeprefix(SCHEME).partition("?")
    named = _attributes(path, ";", _PATH_VALUE, _PATH_NAMES)
    located = _attributes(query, "&", _QUERY_VALUE, _QUERY_NAMES)
    if named.pop("type", "private") != "private":
        raise Trouble("the URI names something else than a private key", "Write type=private")
    if not ("token" in named or "serial" in named):
        raise Trouble("the URI names no token", "Add token=LABEL or serial=NUMBER")
    if not ("object" in named or "id" in named):
        raise Trouble("the URI names no key", "Add object=LABEL or id=%01, or both")
    if "module-path" not in located:
        raise Trouble(
            "the URI names no PKCS#11 library", "Add ?module-path=/path/of/the/library.so"
        )
    module_path = Path(_text(located["module-path"]) or "")
    if not module_path.is_absolute():
        raise Trouble("module-path is not absolute", "Begin it with /")
    return Reference(
        token=_text(named.get("token")),
        serial=_text(named.get("serial")),
        object=_text(named.get("object")),
        id=unquote_to_bytes(named["id"]) if "id" in named else None,
        module_path=module_path,
        pin_path=_pin_path(located["pin-source"], directory) if "pin-source" in located else None,
    )


def _attributes(
    text: str, separator: str, value_form: re.Pattern[str], known: tuple[str, ...]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in text.split(separator) if text else []:
        name, _, value = part.partition("=")
        if name == "pin-value":
            raise Trouble(
                "the URI contains a PIN (pin-value)",
                "Put the PIN into a file of its own, mode 0600, and write pin-source=file:NAME; "
                "change the PIN if others could read it",
            )
        if name not in known:
            # Not repeated in the text: it may be a PIN that slipped in.
            raise Trouble(
                f"the URI has an attribute before or after the ? that is none of: {', '.join(known)}",
                "Remove it",
            )
        if name in found:
            raise Trouble(f"the URI has {name} twice", "Keep one of them")
        if value_form.fullmatch(value) is None:
            raise Trouble(
                f"the value of {name} in the URI is empty, or has a character that must not stand there",
                "Write other characters as % and two hexadecimal digits (RFC 7512)",
            )
        found[name] = value
    return found


def _text(value: str | None) -> str | None:
    if value is None:
        return None
    try:
        text = unquote(value, errors="strict")
    except UnicodeDecodeError:
        text = "\0"
    if not text.isprintable():
        raise Trouble(
            "a value of the URI is not printable text in UTF-8",
            "Correct what stands behind the % signs",
        )
    return text


def _pin_path(value: str, directory: Path) -> Path:
    source = _text(value) or ""
    if not source.startswith("file:"):
        raise Trouble("pin-source does not name a file", "Write pin-source=file:/path/of/pin")
    # file:/etc/pin and file:///etc/pin are the same file; file:pin is beside the key file.
    return directory / re.sub("^//(?=/)", "", source.removeprefix("file:"))


def read_pin(path: Path) -> str:
    try:
        with open_to_read(path) as file:
            mode = os.fstat(file.fileno()).st_mode
            octets = file.read(_MAX_PIN_BYTES + 1)
    except OSError as error:
        raise Trouble(
            f"the PIN cannot be read from {path}: {error.strerror}",
            "Give the file of pin-source, readable for the gateway's user",
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise Trouble(
            f"others than its owner may read the PIN file {path}", f"Run: chmod 600 {path}"
        )
    try:
        pin = octets.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError:
        pin = ""
    if not pin or len(octets) > _MAX_PIN_BYTES or not pin.isprintable():
        raise Trouble(
            f"the file {path} does not hold a PIN", "Write the PIN into it, one line of text"
        )
    return pin
