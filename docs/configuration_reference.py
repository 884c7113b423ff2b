"""Write docs/configuration.md from the models of ra_gateway.config.

python docs/configuration_reference.py > docs/configuration.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from enum import IntEnum
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ra_gateway.cmp.quirks import QUIRKS
from ra_gateway.config.problems import bare, values
from ra_gateway.config.tables import GatewayConfig
from ra_gateway.config.values import DEFAULT_SIGNATURES, PLACEHOLDERS
from ra_gateway.settings.meanings import meaning

PREFACE = """# Configuration reference

<!-- Written by docs/configuration_reference.py from ra_gateway/config/; a test compares them. -->

One TOML file tells a gateway everything; `config/gateway.production.toml` and
`config/gateway.development.toml` are commented examples. `ra-gateway check-config FILE`
reports every problem of a file at once.

- Relative paths start at the directory of the configuration file.
- Unknown keys are refused, and nothing is converted: `"8080"` is not a number.
- Secrets are given by file only. A *secret file* must be readable by its owner alone (mode 0600).
- `<name>` is a name of your choice: letters, digits, `-` and `_`, at most 64.
"""


def reference() -> str:
    """Return the reference as Markdown."""
    parts = [PREFACE, *_sections("", GatewayConfig, required=True), _quirks(), _templates()]
    return "\n".join(parts)


def _sections(path: str, model: type[BaseModel], *, required: bool) -> Iterator[str]:
    """Yield the section of one table, then those of the tables inside it."""
    keys: list[str] = []
    tables: list[tuple[str, type[BaseModel], FieldInfo]] = []
    # `kind` is declared last, by the upstreams, and read first.
    for name, field in sorted(model.model_fields.items(), key=lambda item: item[0] != "kind"):
        inner = list(_tables(f"{path}.{name}".lstrip("."), field.annotation))
        if inner:
            tables.extend((heading, table, field) for heading, table in inner)
        else:
            keys.append(_row(model, name, field))
    if keys:
        several = path.endswith((">", "]"))
        need = (" At least one is required." if several else " Required.") if required else ""
        yield f"## `{path}`\n\n{_first_paragraph(model)}{need}\n"
        yield "| Key | Value | Default | Meaning |\n|---|---|---|---|"
        yield "\n".join(keys) + "\n"
    for heading, table, field in tables:
        yield from _sections(heading, table, required=field.is_required() and "(" not in heading)


def _tables(path: str, annotation: Any) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield heading and model of each kind of table a field may hold; nothing for a plain key."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        kind = annotation.model_fields.get("kind")
        tag = get_args(kind.annotation) if kind else ()
        yield (f'{path} (kind = "{tag[0]}")' if len(tag) == 1 else path), annotation
    elif origin is Annotated:
        yield from _tables(path, arguments[0])
    elif origin in (Union, UnionType):
        for argument in arguments:
            yield from _tables(path, argument)
    elif origin is Mapping:
        yield from _tables(f"{path}.<name>", arguments[1])
    elif origin is tuple:
        yield from _tables(f"{path}[]", arguments[0])


def _row(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    cells = (f"`{name}`", _value(name, field), _default(field), meaning(model, name))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(name: str, field: FieldInfo) -> str:
    annotation = bare(field.annotation)
    listed = get_origin(annotation) is tuple
    if listed:
        annotation = get_args(annotation)[0]
    if name == "path" or name.endswith(("_path", "_paths")):
        noun = "secret file" if not field.repr else "path"
    elif get_origin(annotation) is Mapping:
        noun = "table"
    elif listing := values(annotation):
        noun = ", ".join(f"`{value}`" for value in listing)
    else:
        names = {bool: "`true` or `false`", int: "whole number", float: "number", str: "text"}
        noun = names[bare(annotation)]
    return (f"list of: {noun}" if listed else noun) + _range(field)


def _range(field: FieldInfo) -> str:
    bounds: dict[type, Any] = {type(bound): bound for bound in field.metadata}
    low = f"{bounds[Ge].ge:g}" if Ge in bounds else "more than 0" if Gt in bounds else ""
    high = f"{bounds[Le].le}" if Le in bounds else ""
    return f", {low} to {high}" if low and high else ""


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.is_required():
        return "**required**"
    if default is None or default == {}:
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, int | float):
        return f"`{default:.0f}`"
    if default == DEFAULT_SIGNATURES:
        return "all but those with `sha1` or `md5`"
    if isinstance(default, tuple):
        return (
            "`["
            + ", ".join(f'"{item.name if isinstance(item, IntEnum) else item}"' for item in default)
            + "]`"
        )
    return f'`"{default}"`'


def _quirks() -> str:
    rows = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in QUIRKS.items())
    return f"## Quirks\n\n| Name | Relaxes |\n|---|---|\n{rows}\n"


def _templates() -> str:
    known = ", ".join(f"`{{{name}}}`" for name in PLACEHOLDERS)
    return (
        "## Placeholders\n\n"
        f"Templates and patterns of `vendors.<name>.identity` may hold {known}: commonName,\n"
        "serialNumber, organizationName and organizationalUnitName of the vendor certificate's\n"
        "subject, and the certificate's own serial number. An attribute that the subject has twice fills\n"
        "none of them: nobody could say which one counts.\n"
    )


def _first_paragraph(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").split("\n\n", 1)[0].strip()


if __name__ == "__main__":
    sys.stdout.write(reference())
