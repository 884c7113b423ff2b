"""Reads the lock files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]


def locked(name: str) -> dict[str, Requirement]:
    """Return what a lock file installs; each line of it is understood, and has hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    found: dict[str, Requirement] = {}
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        pin, *hashes = re.split(r"\s+--hash=", line)
        assert hashes, f"{name}: {pin} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", item) for item in hashes), line
        requirement = Requirement(pin)
        assert requirement.url is None
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), pin
        assert canonicalize_name(requirement.name) not in found
        found[canonicalize_name(requirement.name)] = requirement
    return found
