"""From a file to what it says, or to everything that is wrong with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ra_gateway.config.dialects import with_dialects
from ra_gateway.config.problems import problems
from ra_gateway.config.raw import Rule
from ra_gateway.config.rules import CA_RULES, RULES
from ra_gateway.config.source import Source, Tables, parsed
from ra_gateway.config.tables import CAServiceConfig, GatewayConfig
from ra_gateway.errors import ConfigError

Model = TypeVar("Model", bound=BaseModel)


def load(source: Path | Source, *, check_files: bool = True) -> GatewayConfig:
    """Read a gateway's configuration.

    Args:
        source: The TOML file, and what stands above it; relative paths start at the file's directory.
        check_files: False leaves out whether the files it names exist and who may read them.

    Raises:
        ConfigError: With every problem found.
    """
    source = _source(source)
    return _gateway(source.tables(), source.path.parent, check_files)


def parse(
    text: str, *, directory: Path, check_files: bool = True, name: str = "configuration"
) -> GatewayConfig:
    """Validate the text of a configuration file; as `load`, with `directory` for relative paths.

    Raises:
        ConfigError: With every problem found.
    """
    return _gateway(Tables(parsed(text, name)), directory, check_files)


def _gateway(tables: Tables, directory: Path, check_files: bool) -> GatewayConfig:
    tables = replace(tables, raw=with_dialects(tables.raw))
    return _validate(GatewayConfig, tables, RULES, directory, check_files)


def load_ca(source: Path | Source, *, check_files: bool = True) -> CAServiceConfig:
    """Read what `ra-gateway ca serve` needs; the other tables of a gateway are not looked at.

    Raises:
        ConfigError: With every problem found.
    """
    source = _source(source)
    tables = source.tables()
    raw = {
        key: value
        for key, value in tables.raw.items()
        if key in CAServiceConfig.model_fields or key not in GatewayConfig.model_fields
    }
    return _validate(
        CAServiceConfig, replace(tables, raw=raw), CA_RULES, source.path.parent, check_files
    )


def is_of_ca_alone(source: Path | Source) -> bool:
    """Return whether a file has the table `[ca]` and none of those that every gateway has: one for `ca serve`.

    Raises:
        ConfigError: It cannot be read, or is not TOML.
    """
    needed = {name for name, field in GatewayConfig.model_fields.items() if field.is_required()}
    tables = _source(source).tables().raw
    return "ca" in tables and not needed & tables.keys()


def _source(source: Path | Source) -> Source:
    return Source(source) if isinstance(source, Path) else source


def _validate(
    model: type[Model],
    tables: Tables,
    rules: tuple[Rule, ...],
    directory: Path,
    check_files: bool,
) -> Model:
    found = [problem for rule in rules for problem in rule(tables.raw)]
    context = {"directory": directory.absolute(), "check_files": check_files}
    config: Model | None = None
    try:
        # As JSON: pydantic's strict mode then takes texts for paths and lists for tuples, no more.
        config = model.model_validate_json(json.dumps(tables.raw, default=str), context=context)
    except ValidationError as error:
        found = problems(model, error) + found
    if config is None or found:
        # Outside of the except block: a chained error would show values of the file in a traceback.
        raise ConfigError(list(map(tables.blame, found)))
    return config
