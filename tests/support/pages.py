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
    """Return the tables that a page adds to a configuration; what it has for the site's `[ca]` is `of_ca`."""
    found = (block for block in blocks(page) if block.startswith("["))
    return "".join(f"\n{block}\n" for block in found if not block.startswith("[ca]"))


def of_ca(page: str) -> dict[str, str]:
    """Return what a page has for the `[ca]` of a site, each line by its key."""
    found = [block for block in blocks(page) if block.startswith("[ca]\n")]
    lines = [line for block in found for line in block.splitlines()[1:]]
    return {line.split(" = ")[0]: line.split("  #")[0] for line in lines}


def secrets_file(page: str, secret: str) -> str:
    """Return the file of shared secrets that a page has, with a secret in it."""
    (found,) = (block for block in blocks(page) if block.startswith("reference,"))
    return found.replace("SECRET", secret) + "\n"


def commands(page: str, section: str = "", program: str = "openssl") -> list[list[str]]:
    """Return the commands of a page in their order, as words.

    Args:
        section: Heading of the one section that is meant; the whole page if absent.
        program: Whose commands.
    """
    text = (DOCS / page).read_text()
    if section:
        text = re.split(rf"^#+ {re.escape(section)}\n", text, flags=re.MULTILINE)[1]
        text = re.split(r"^#", text, flags=re.MULTILINE)[0]
    lines = text.replace("\\\n", " ").splitlines()
    found = (line for line in lines if line.startswith(f"    {program} "))
    return [shlex.split(line, comments=True) for line in found]
