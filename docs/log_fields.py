"""Write docs/log-fields.md from ra_gateway.log_lines.

python docs/log_fields.py > docs/log-fields.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from ra_gateway.log_lines import FIELDS, FRAME, LINES, MESSAGE, OUTCOMES, Line

PREFACE = """# The log

<!-- Written by docs/log_fields.py from ra_gateway/log_lines.py; a test compares them. -->

Each line is one JSON object on standard error (`log.format`); systemd's journal has it with its severity. A field
means the same in every line that has it, and is left out where there is nothing to say. Names are RFC 4514 strings with
all attributes by their names, `serialNumber=ENB-0001,CN=enb1`.

An alarm belongs on `level = "error"`: that is our side's failure, not a base station's. One message of a base station
is one line of the gateway's, and one of the bundled CA's where that was asked; `transaction_id` joins them. Where a
device is told to wait, its request, each of its polls, and what comes of the exchange meanwhile have a line each.

    journalctl -u ra-gateway -o cat | jq 'select(.serial_number == "4c1f...")'
    journalctl -u ra-gateway -o cat | ra-gateway why A005 --log -
"""


def reference() -> str:
    """Return the page as Markdown."""
    parts = [
        PREFACE,
        "## In any line\n\n| Field | Value | Meaning |\n|---|---|---|",
        *(f"| `{name}` | {field.kind} | {field.meaning} |" for name, field in FRAME.items()),
        "\n## Messages\n",
        "The line of a message that the gateway has answered is named by the body of the PKIMessage: `ir`, `cr`,",
        "`p10cr`, `kur`, `certConf`, `pollReq`, `rr`, `genm`, `nested`, `error` ... (RFC 9810 5.1.2).\n",
        *_line("*body*", MESSAGE),
        "\n| `outcome` | Means |\n|---|---|",
        *(f"| `{name}` | {meaning} |" for name, meaning in OUTCOMES.items()),
        "\n## Other lines\n",
        *(text for name, line in LINES.items() for text in _line(f"`{name}`", line)),
        "\nA line with the field `logger` is a library's, and named by what that says.\n",
        "## Fields\n\n| Field | Value | Meaning |\n|---|---|---|",
        *(f"| `{name}` | {field.kind} | {field.meaning} |" for name, field in FIELDS.items()),
        "",
    ]
    return "\n".join(parts)


def _line(name: str, line: Line) -> Iterator[str]:
    fields = ", ".join(f"`{field}`" for field in line.fields)
    yield f"- {name} ({', '.join(line.levels)}): {line.meaning}" + (
        f"  \n  {fields}" * bool(fields)
    )


if __name__ == "__main__":
    sys.stdout.write(reference())
