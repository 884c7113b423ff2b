"""Templates and patterns of names, filled in with what a device's certificate says."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from ra_gateway.cmp.certificates import Certificate
from ra_gateway.cmp.identity import DeviceValues, fill
from ra_gateway.cmp.names import (
    escape_rfc4514,
    fits,
    fits_general_name,
    from_rfc4514,
    general_names_der,
    readable_text,
)
from ra_gateway.errors import NotAuthorized


def _fill(text: str, value: Callable[[str], str | None], signer: Certificate) -> str:
    try:
        return fill(text, value)
    except KeyError as error:
        raise NotAuthorized(
            f"{signer.subject} has no {error.args[0]}, or more than one, that can be put into {text!r}",
            rule="R141",
        ) from error
    except ValueError as error:  # braces in the inventory that are no placeholder
        raise NotAuthorized(f"{text!r} cannot be filled in: {error}", rule="R141") from error


def _escaped(values: DeviceValues, placeholder: str) -> str | None:
    value = values.get(placeholder)
    return None if value is None else escape_rfc4514(value)


def subject_from(text: str, values: DeviceValues, signer: Certificate) -> bytes:
    """Return the Name that a template makes of what a certificate says (encoded).

    Raises:
        NotAuthorized: It lacks what a placeholder stands for, or the result is no Name.
    """
    filled = _fill(text, partial(_escaped, values), signer)
    try:
        return from_rfc4514(filled)
    except ValueError as error:
        raise NotAuthorized(f"{filled!r} is not a subject: {error}", rule="R141") from error


_SAN_VALUE: Final = re.compile(r"[A-Za-z0-9._:-]+")
"""What a vendor certificate may put into a subjectAltName, by a template or by a pattern: no "*", which would make it a
wildcard, and nothing that ends the host of a URI or a mailbox, as "/" or "@"."""


def _san_value(values: DeviceValues, in_name: bool, placeholder: str) -> str | None:
    if in_name:
        value = _escaped(values, placeholder)
        return value if value is not None and "*" not in value else None
    value = values.get(placeholder)
    return value if value is not None and _SAN_VALUE.fullmatch(value) else None


def san_from(templates: Iterable[str], values: DeviceValues, signer: Certificate) -> bytes | None:
    """Return the subjectAltName that templates make of what a certificate says, None where there are none.

    Raises:
        NotAuthorized: As of `subject_from`.
    """
    names = [
        _fill(text, partial(_san_value, values, text.startswith("dn:")), signer)
        for text in templates
    ]
    try:
        return general_names_der(names) if names else None
    except ValueError as error:
        raise NotAuthorized(
            f"{', '.join(names)} is not a subjectAltName: {error}", rule="R141"
        ) from error


def check_allowed(text: str, patterns: Sequence[str], what: str, signer: Certificate) -> None:
    """Refuse a name that fits no pattern.

    Args:
        text: RFC 4514 string of a subject, or an entry of a subjectAltName.
        patterns: Globs, with placeholders for what the signer's certificate says; "*" alone allows all but wildcards.
        what: "subject" or "subjectAltName".

    Raises:
        NotAuthorized: It fits none.
    """
    if what == "subjectAltName" and "*" in text:
        patterns = ()  # a wildcard name is never allowed: it would speak for other devices
    if "*" in patterns:
        return
    values = DeviceValues(signer)
    for pattern in patterns:
        try:
            kind = what if what == "subject" else pattern.partition(":")[0]
            filled = fill(pattern, partial(_literal, values, kind))
        except KeyError:
            continue  # the vendor certificate lacks the attribute, or has two: this pattern allows nothing
        if fits_general_name(text, filled) if what == "subjectAltName" else fits(text, filled):
            return
    raise NotAuthorized(
        f"{what} {readable_text(text)!r} is not allowed for {signer.subject}; allowed: "
        f"{readable_text(', '.join(patterns)) or 'nothing is configured'}",
        rule="R67",
    )


def _literal(values: DeviceValues, what: str, placeholder: str) -> str | None:
    """Return a value as a pattern that fits it alone; None for what fits nothing.

    Args:
        what: The kind of name that it is a part of, "subject" for an attribute of one.
    """
    if what not in ("subject", "dn"):
        return _san_value(values, False, placeholder)
    value = _escaped(values, placeholder)
    if value is None or any(char not in "*?[" and _wild(char) for char in value):
        return None  # what becomes a wildcard when it is compared fits nothing
    return "".join(f"[{char}]" if char in "*?[" else char for char in value)


def _wild(char: str) -> bool:
    return not char.isascii() and not set("*?[]").isdisjoint(unicodedata.normalize("NFKC", char))
