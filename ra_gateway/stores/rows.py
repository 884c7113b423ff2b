"""CSV files that people write, read strictly: one row a line, each right as a whole or named with its line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ra_gateway.errors import ConfigError, Problem, printable
from ra_gateway.files import open_to_read

MAX_LINE_OCTETS: Final = 16 * 1024
"""A device's subject and names have some hundred."""

MAX_PROBLEMS: Final = 20
"""More tell nobody more: a file with the wrong separator has one in each line."""

_COMMENT: Final = b"#"
"""Begins a line that is none; a value that begins so stands in quotation marks."""

_TO_BE_QUOTED: Final = re.compile(r'[,;"#]')

_MARK: Final = b"\xef\xbb\xbf"

_VALUE: Final = {
    sign: re.compile(rf'(?: *"((?:[^"]|"")*)" *|([^"{sign}]*))({sign}|$)') for sign in ",;"
}
"""A value as RFC 4180 2 has it, in quotation marks or without any, and the sign behind it if there is one.

Spreadsheets write commas or semicolons, by the language of the machine. The module `csv` takes a mark within a value
for a part of it.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a file: its number, and its values by column, without blanks around them."""

    line: int
    values: dict[str, str]


def read_rows(
    path: Path, required: Sequence[str], optional: Sequence[str] = (), *, setting: str = ""
) -> Iterator[Row | Problem]:
    """Yield the rows of a CSV file in UTF-8, and what is wrong with those that are not as the header says.

    Commas separate the values, or semicolons where they do in the header. Lines that begin with # are comments. A
    value never goes on in the next line, so that a quotation mark that is missing costs one row. No text repeats a
    value, which may be a secret.

    Args:
        required: Columns; without optional ones exactly these, in their order.
        optional: Columns that the header may have besides, all then in any order.
        setting: Dotted path of what names the file, for what is wrong with it as a whole.

    Raises:
        ConfigError: The file cannot be read, or has another header.
    """
    try:
        with open_to_read(path) as file:
            header: list[str] | None = None
            number, sign = 0, ","
            while octets := file.readline(MAX_LINE_OCTETS + 1):
                number += 1
                if len(octets) > MAX_LINE_OCTETS:
                    # What follows would begin within a value; nobody can say where the next row is.
                    yield _wrong(path, number, f"is longer than {MAX_LINE_OCTETS} octets")
                    return
                if number == 1:
                    octets = octets.removeprefix(_MARK)
                if octets.startswith(_COMMENT):
                    continue
                if header is None:
                    sign = separator(octets)
                values = _values(octets, sign)
                if header is None:
                    header = _header(path, values, required, optional, setting)
                elif isinstance(values, str):
                    yield _wrong(path, number, values)
                elif values and len(values) != len(header):
                    what = f"has more or fewer columns than the header ({len(values)}, not {len(header)})"
                    yield _wrong(path, number, what)
                elif values:
                    yield Row(number, dict(zip(header, values, strict=True)))
            if header is None:
                _header(path, [], required, optional, setting)
    except OSError as error:
        raise ConfigError.of(
            setting or str(path),
            f"{path} cannot be read: {error.strerror or error}",
            "Give a file that this process may read",
        ) from error


def separator(header: bytes) -> str:
    """Return what separates the values of a file, by its header."""
    return ";" if b"," not in header and b";" in header else ","


def as_line(values: Iterable[str], sign: str = ",") -> str:
    """Return a row as a line, without its end."""
    return sign.join(
        f'"{value.replace(chr(34), chr(34) * 2)}"' if _TO_BE_QUOTED.search(value) else value
        for value in values
    )


def refuse(problems: Sequence[Problem]) -> None:
    """Refuse a file that has problems, with the first of them and how many there are.

    Raises:
        ConfigError: There are any.
    """
    if len(problems) > MAX_PROBLEMS:
        rest = f"has {len(problems) - MAX_PROBLEMS} more lines that cannot be used"
        file = problems[0].path.rpartition(":")[0]
        raise ConfigError([*problems[:MAX_PROBLEMS], Problem(file, rest, "Correct these first")])
    if problems:
        raise ConfigError(list(problems))


def _values(octets: bytes, sign: str) -> list[str] | str:
    """Return the values of a line, none for an empty one; or what is wrong with it."""
    try:
        line = octets.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        return f"is no CSV in UTF-8 (octet {error.start + 1})"
    if not line.isprintable():
        place, char = next((i, c) for i, c in enumerate(line, 1) if not c.isprintable())
        return f"has a character that cannot be seen, {printable(char)}, at {place}"
    if not line.strip():
        return []
    if '"' not in line:
        return [value.strip() for value in line.split(sign)]
    values, at = [], 0
    while (found := _VALUE[sign].match(line, at)) is not None:
        quoted, plain, separator = found.groups()
        values.append((plain if quoted is None else quoted.replace('""', '"')).strip())
        if not separator:
            return values
        at = found.end()
    return "has a quotation mark that is not closed, or one within a value"


def _header(
    path: Path,
    found: list[str] | str,
    required: Sequence[str],
    optional: Sequence[str],
    setting: str,
) -> list[str]:
    if isinstance(found, list):
        if not optional and found == list(required):
            return found
        known = {*required, *optional}
        if optional and set(required) <= set(found) <= known and len(found) == len(set(found)):
            return found
    todo = f"Begin the file with the line {','.join(required)}"
    if optional:
        todo = f"Begin with a line of {' and '.join(required)}, and of {', '.join(optional)} what is needed"
    shown = (
        found if isinstance(found, str) else f"is {printable(','.join(found), 200) or 'missing'}"
    )
    what = f"{path} has another header: the header {shown}"
    if isinstance(found, list) and len(found) == 1 and "|" in found[0]:
        what = f"{path} is separated by '|', not by commas: the header {shown}"
    raise ConfigError.of(setting or f"{path}:1", what, f"{todo}, separated by commas or semicolons")


def _wrong(path: Path, number: int, what: str) -> Problem:
    todo = "Correct the line; put values with commas, such as subjects, in quotation marks"
    return Problem(f"{path}:{number}", what, todo)
