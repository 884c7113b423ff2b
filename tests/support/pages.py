"""Pages of the documents, as far as tests run what is printed there."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parents[2] / "docs"


def blocks(page: str) -> list[str]:
    """Return the indented blocks of a page, each without its indentation."""
    text = (DOCS / page).read_text()
    found = re.findall(r"(?:^(?: {4}.*)?\n)+", text, re.MULTILINE)
    return [textwrap.dedent(block).strip() for block in found if block.strip()]


def tables(page: str) -> str:
    """Return what a page has of a configuration."""
    return "".join(f"\n{block}\n" for block in blocks(page) if block.startswith("["))


def secrets_file(page: str, secret: str) -> str:
    """Return the file of shared secrets that a page has, with a secret in it."""
    (found,) = (block for block in blocks(page) if block.startswith("reference,"))
    return found.replace("SECRET", secret) + "\n"


def commands(page: str, section: str = "") -> list[list[str]]:
    """Return the `openssl` commands of a page in their order, as words.

    Args:
        section: Heading of the one section that is meant; the whole page if absent.
    """
    text = (DOCS / page).read_text()
    if section:
        text = re.split(rf"^#+ {re.escape(section)}\n", text, flags=re.MULTILINE)[1]
        text = re.split(r"^#", text, flags=re.MULTILINE)[0]
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.startswith("    openssl ")]
