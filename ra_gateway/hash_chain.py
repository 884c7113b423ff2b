"""The hash chain of audit trails: each line is bound to the one before, so that none can be changed or left out unseen.

The gateway's trail and that of the bundled CA's ledger are chained alike, and one check reads both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

START: Final = bytes(32)
"""What stands for the hash before the first line."""

_quoted: Final = json.encoder.encode_basestring_ascii
"""A JSON string of a text; an encoder for whole values would be built anew for each, and take ten times as long."""


def canonical_detail(detail: Mapping[str, str]) -> str:
    """Return facts as JSON with sorted keys and without blanks."""
    return "{" + ",".join(f"{_quoted(k)}:{_quoted(v)}" for k, v in sorted(detail.items())) + "}"


def chained(
    previous: bytes, number: int, at: int, actor: str, action: str, subject: str, detail: str
) -> bytes:
    """Return the hash of a line: SHA-256 over the hash of the one before and the line as a JSON list.

    Args:
        previous: 32 octets; `START` before the first line.
        at: When, in whatever unit the trail has.
        detail: As stored: JSON with sorted keys and without blanks.
    """
    texts = ",".join(map(_quoted, (actor, action, subject, detail)))
    line = f"[{number},{at},{texts}]"
    return hashlib.sha256(previous + line.encode()).digest()
