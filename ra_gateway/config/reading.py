"""From a file to what it says, or to everything that is wrong with it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ra_gateway.config.dialects import with_dialects
from ra_gateway.config.problems import problems
from ra_gateway.config.raw import Rule
from ra_gateway.config.rules import CA_RULES, RULES
from ra_gateway.config.tables import CAServiceConfig, GatewayConfig
from ra_gateway.errors import ConfigError, Problem

Model = TypeVar("Model", bound=BaseModel)


def load(path: Path, *, check_files: bool = True) -> GatewayConfig:
    """Read a gateway's configuration file.

    Args:
        path: The TOML file; relative paths in it start at its directory.
        check_files: False leaves out whether the files it names exist and who may read them.

    Raises:
        ConfigError: With every problem found.
    """
    return parse(_read(path), directory=path.parent, check_files=check_files, name=str(path))


def parse(
    text: str, *, directory: Path, check_files: bool = True, name: str = "configuration"
) -> GatewayConfig:
    """Validate the text of a configuration file; as `load`, with `directory` for relative paths.

    Raises:
        ConfigError: With every problem found.
    """
    raw = with_dialects(_tables(text, name))
    return _validate(GatewayConfig, raw, RULES, directory, check_files)


def load_ca(path: Path, *, check_files: bool = True) -> CAServiceConfig:
    """Read what `ra-gateway ca serve` needs; the other tables of a gateway are not looked at.

    Raises:
        ConfigError: With every problem found.
    """
    raw = {
        key: value
        for key, value in _tables(_read(path), str(path)).items()
        if key in CAServiceConfig.model_fields or key not in GatewayConfig.model_fields
    }
    return _validate(CAServiceConfig, raw, CA_RULES, path.parent, check_files)


def is_of_ca_alone(path: Path) -> bool:
    """Return whether a file has the table `[ca]` and none of those that every gateway has: one for `ca serve`.

    Raises:
        ConfigError: It cannot be read, or is not TOML.
    """
    needed = {name for name, field in GatewayConfig.model_fields.items() if field.is_required()}
    tables = _tables(_read(path), str(path))
    return "ca" in tables and not needed & tables.keys()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # editors may begin it with a mark
    except OSError as error:
        what, todo = (
            f"cannot be read: {error.strerror}",
            "Give the path of a file; `ra-gateway init` writes one.",
        )
    except UnicodeDecodeError as error:
        other = "" if error.start else ": it seems to be UTF-16"
        what, todo = f"is not UTF-8 text (byte {error.start}){other}", "Save it as UTF-8."
    raise ConfigError([Problem(str(path), what, todo)])


def _tables(text: str, name: str) -> dict[str, Any]:
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


def _validate(
    model: type[Model],
    raw: dict[str, Any],
    rules: tuple[Rule, ...],
    directory: Path,
    check_files: bool,
) -> Model:
    found = [problem for rule in rules for problem in rule(raw)]
    context = {"directory": directory.absolute(), "check_files": check_files}
    config: Model | None = None
    try:
        # As JSON: pydantic's strict mode then takes texts for paths and lists for tuples, no more.
        config = model.model_validate_json(json.dumps(raw, default=str), context=context)
    except ValidationError as error:
        found = problems(model, error) + found
    if config is None or found:
        # Outside of the except block: a chained error would show values of the file in a traceback.
        raise ConfigError(found)
    return config
