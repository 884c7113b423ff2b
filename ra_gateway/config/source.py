"""Where a configuration comes from: a file, and settings that environment and command line lay over it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ra_gateway.errors import ConfigError, Problem
from ra_gateway.files import read_bounded

DEFAULT_PATHS: Final = (Path("gateway.toml"), Path("/etc/ra_gateway/gateway.toml"))
"""The first of them that exists is read where none is named."""

PATH_VARIABLE: Final = "RA_GATEWAY_CONFIG"
VARIABLES: Final = "RA_GATEWAY__"
"""Environment variables that begin so are settings: RA_GATEWAY__SERVER__LISTEN_PORT is server.listen_port."""

_MOST_OCTETS: Final = 4_194_304
"""Thousands of vendors have no more; what is read is walked in Python while base stations are answered."""

_KEY: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+|\[\d+\])*")


@dataclass(frozen=True, slots=True)
class Override:
    """One setting that stands above the file.

    Args:
        origin: The option or the environment variable it comes from.
        steps: The names on the way to it; numbers in lists.
        value: As TOML has it.
        loosely: Capitals and hyphens of names are not known, as in an environment variable.
    """

    origin: str
    steps: tuple[str, ...]
    value: Any
    loosely: bool = False

    def name_in(self, table: Mapping[str, Any], step: str) -> str:
        """Return the name that a step has in a table: the one that is there, if there is one like it."""
        if not self.loosely:
            return step
        return next((name for name in table if _loose(name) == step), step)


@dataclass(frozen=True, slots=True)
class Tables:
    """What file and overrides say together.

    Args:
        raw: As parsed.
        origins: Dotted path to the override that made it, of all that the file does not say.
    """

    raw: dict[str, Any]
    origins: Mapping[str, str] = field(default_factory=dict)

    def blame(self, problem: Problem) -> Problem:
        """Return a problem with where its setting comes from, if that is not the file."""
        path = problem.path
        while path and path not in self.origins:
            path = re.sub(r"(^|\.)[^.\[]*$|\[\d+\]$", "", path)
        if not path:
            return problem
        return replace(problem, path=f"{problem.path} (from {self.origins[path]})")


@dataclass(frozen=True, slots=True)
class Source:
    """A configuration file and what stands above it; it may be read again and again.

    Args:
        path: The TOML file; relative paths, of overrides too, start at its directory.
        overrides: Later ones stand above earlier ones.
        text: In place of what the file has now.
    """

    path: Path
    overrides: tuple[Override, ...] = ()
    text: str | None = field(default=None, repr=False)

    @classmethod
    def found(
        cls, path: Path | None, environment: Mapping[str, str], settings: Iterable[str]
    ) -> Source:
        """Return where a command's configuration is.

        Args:
            path: As given with --config; None for the one that the environment names, else a default.
            environment: Names and values of environment variables.
            settings: As given with --set: KEY=VALUE.

        Raises:
            ConfigError: A variable or a setting is of no possible form.
        """
        if path is None and environment.get(PATH_VARIABLE):
            path = Path(environment[PATH_VARIABLE])
        if path is None:
            path = next((item for item in DEFAULT_PATHS if item.exists()), DEFAULT_PATHS[0])
        variables = sorted(item for item in environment.items() if item[0].startswith(VARIABLES))
        return cls(path, (*(_variable(*item) for item in variables), *map(_assignment, settings)))

    def __str__(self) -> str:
        return str(self.path)

    def with_setting(self, origin: str, key: str, value: Any) -> Source:
        """Return it with one more setting on top.

        Args:
            origin: The option that it comes from.
            key: Dotted path.
        """
        return replace(
            self, overrides=(*self.overrides, Override(origin, tuple(key.split(".")), value))
        )

    def kept(self) -> Source:
        """Return it with what the file has now, whatever becomes of that.

        Raises:
            ConfigError: The file cannot be read.
        """
        return replace(self, text=_read(self.path))

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it, with its text (`kept`)."""
        return {**asdict(self), "path": str(self.path)}

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> Source:
        """Return what `plain` was made of."""
        overrides = (
            Override(**{**item, "steps": tuple(item["steps"])}) for item in plain["overrides"]
        )
        return cls(Path(plain["path"]), tuple(overrides), plain["text"])

    def tables(self) -> Tables:
        """Read the file and lay over it what stands above.

        Raises:
            ConfigError: The file cannot be read, or is not TOML, or has no place for a setting.
        """
        text = _read(self.path) if self.text is None else self.text
        return overlaid(parsed(text, str(self.path)), self.overrides)


def overlaid(raw: dict[str, Any], overrides: Iterable[Override]) -> Tables:
    """Lay settings over tables, which are changed.

    Raises:
        ConfigError: There is no place for one of them.
    """
    origins: dict[str, str] = {}
    for override in overrides:
        _lay(raw, override, origins)
    return Tables(raw, origins)


def _lay(raw: dict[str, Any], override: Override, origins: dict[str, str]) -> None:
    table: Any = raw
    path, steps = "", list(override.steps)
    while True:
        step = steps.pop(0)
        if isinstance(table, dict):
            name: str | int = override.name_in(table, step)
            path = f"{path}.{name}".lstrip(".")
        elif isinstance(table, list) and step.isdigit() and int(step) < len(table):
            name = int(step)
            path = f"{path}[{name}]"
        else:
            raise ConfigError.of(
                f"{path or step} (from {override.origin})",
                f"has nothing that is called {step}",
                "Name a setting of a table, or an entry of a list that is there, the first as 0",
            )
        if not steps:
            table[name] = override.value
            origins[path] = override.origin
            return
        if isinstance(table, dict) and name not in table:
            table[name] = {}
            origins[path] = override.origin
        table = table[name]


def _loose(name: str) -> str:
    return name.lower().replace("-", "_")


def _variable(name: str, text: str) -> Override:
    steps = tuple(map(_loose, name.removeprefix(VARIABLES).split("__")))
    if not all(re.fullmatch(r"[a-z0-9_]+", step) for step in steps):
        raise ConfigError.of(
            name,
            "is no setting's",
            f"Write {VARIABLES}SERVER__LISTEN_PORT for server.listen_port",
        )
    return Override(name, steps, _value(text), loosely=True)


def _assignment(text: str) -> Override:
    key, equals, value = text.partition("=")
    if not equals or not _KEY.fullmatch(key):
        # What is behind the sign may be a secret, at the wrong place.
        raise ConfigError.of(
            "--set",
            f"{key[:80]!r} is not followed by = and a value"
            if not equals
            else f"{key[:80]!r} is no setting's name",
            "Write it like server.listen_port=8081",
        )
    return Override("--set", tuple(re.findall(r"[A-Za-z0-9_-]+", key)), _value(value))


def _value(text: str) -> Any:
    """Return what a text is in TOML; the text itself if that is nothing there."""
    try:
        tables = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return tables["value"] if tables.keys() == {"value"} else text


def parsed(text: str, name: str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Args:
        name: Of the file, for the error.

    Raises:
        ConfigError: It is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = str(error)
    found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", message, re.DOTALL)
    reason, line, column = found.groups() if found else (message, str(text.count("\n") + 1), "1")
    raise ConfigError(
        [
            Problem(
                f"{name}:{line}",
                f"is not TOML: {reason} (column {column})",
                "Correct the line; text needs quotes, and a table or key may be given only once.",
            )
        ]
    )


def _read(path: Path) -> str:
    try:
        octets = read_bounded(path, _MOST_OCTETS)
        return octets.decode("utf-8-sig")  # editors may begin it with a mark
    except OSError as error:
        what, todo = f"cannot be read: {error.strerror}", "".join(_where_else(path))
    except UnicodeDecodeError as error:
        other = "" if error.start else ": it seems to be UTF-16"
        what, todo = f"is not UTF-8 text (byte {error.start}){other}", "Save it as UTF-8."
    raise ConfigError([Problem(str(path), what, todo)])


def _where_else(path: Path) -> Iterator[str]:
    yield "Give the path of a file; `ra-gateway init` writes one."
    if path == DEFAULT_PATHS[0]:
        yield f" Without one, {DEFAULT_PATHS[1]} is read if it is there."
