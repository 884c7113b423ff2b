"""Write docs/failinfo.md: every failInfo that a device is given, out of the code and of what the doctor knows of it.

python docs/failinfo.py > docs/failinfo.md
"""

from __future__ import annotations

import importlib
import pkgutil
import runpy
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import ra_gateway
from ra_gateway.app.doctor.own_texts import Meaning, meaning
from ra_gateway.errors import CMPError, PKIFailureInfo, UpstreamUnavailable

ROOT: Final = Path(__file__).parents[1]

OF_THE_CLIENT: Final = frozenset({"CMPError", "EnvelopeRefused", "PackageRefused"})
"""What `ra-gateway enroll` refuses, or what is told as another one before it leaves: no device gets these."""

_MOST_TEXTS: Final = 4
_WHO: Final = {
    "device": "the base station",
    "operator": "the operator",
    "ca": "whoever runs the CA",
}

PREFACE: Final = """# What base stations are told

<!-- Written by docs/failinfo.py from the code and ra_gateway/app/doctor/own_errors.toml; a test compares them. -->

A base station that is refused gets a failInfo (RFC 9810 5.2.3) and one of a few fixed sentences, which name the class
of the cause and no more: in the body of the answer (ip, cp, kup, rp) where its request is at fault, else in an error
message. What exactly is wrong is in the line of the log ([log-fields.md](log-fields.md)), which has the same
`fail_info`, the `rule` and the `detail`. Next to each cause stands what `detail` says, with dots for what differs.
`ra-gateway doctor --explain TEXT` looks a sentence or a line up here, and `ra-gateway why WHAT` the log, the inventory
and the ledger besides.

**What the CA refuses** is told with the CA's own failInfo, whichever that is; the line has rule R89, and `ca_detail`
where it is the bundled CA in the same process. What the bundled CA itself refuses is below: a base station gets it in
client mode, and through a gateway.
"""


class Row(NamedTuple):
    """Texts of one cause."""

    meaning: Meaning
    rules: tuple[str, ...]
    texts: tuple[str, ...]


def classes() -> dict[str, type[CMPError]]:
    """Return every class of what a peer is answered with, by its name."""
    for module in pkgutil.walk_packages(ra_gateway.__path__, "ra_gateway."):
        if ".migrations" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, todo = {}, [CMPError]
    while todo:
        error = todo.pop()
        found[error.__name__] = error
        todo += error.__subclasses__()
    return found


def told() -> dict[str, dict[str, list[Row]]]:
    """Return rows by failInfo, and by what the device reads."""
    known = classes()
    rows: dict[tuple[str, str], dict[Meaning, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for refusal in runpy.run_path(str(ROOT / "docs/own_texts.py"))["refusals"]():
        if refusal.error not in known or refusal.error in OF_THE_CLIENT:
            continue
        error = known[refusal.error]
        phrase = "...".join(refusal.phrase) if len("".join(refusal.phrase)) > 2 else error.phrase
        found = meaning(refusal.error, refusal.rule, " 12 ".join(refusal.pieces))
        assert found is not None, refusal
        for fail_info in refusal.fail_infos or (error.fail_info.name,):
            rows[fail_info, phrase][found].append(refusal)
    table: dict[str, dict[str, list[Row]]] = defaultdict(dict)
    for (fail_info, phrase), by_meaning in rows.items():
        made = [_row(found, refusals) for found, refusals in by_meaning.items()]
        table[fail_info][phrase] = sorted(made, key=lambda row: (_order(row.rules), row.texts))
    return table


def _row(found: Meaning, refusals: Iterable[Any]) -> Row:
    rules = {_rule(item) for item in refusals} - {""}
    texts = {"...".join(("", *item.pieces, "")).strip(".") for item in refusals}
    shown = sorted(
        (text.strip() for text in texts if len(text) > 3), key=lambda text: (len(text), text)
    )
    return Row(found, tuple(sorted(rules, key=_number)), tuple(shown))


def _rule(refusal: Any) -> str:
    return refusal.rule or ("R90" if refusal.error == UpstreamUnavailable.__name__ else "")


def _number(rule: str) -> tuple[bool, str, int]:
    number = rule[1:]
    return (False, rule[0], int(number)) if number.isdigit() else (True, rule, 0)


def _order(rules: tuple[str, ...]) -> tuple[bool, str, int]:
    return _number(rules[0]) if rules else (True, "~", 0)


def reference() -> str:
    """Return the page as Markdown."""
    table = told()
    parts = [PREFACE]
    for fail_info in sorted(table):
        parts.append(f"## `{fail_info}`\n")
        for phrase in sorted(table[fail_info]):
            parts += [f"Text: *{phrase}*\n", *_rows(table[fail_info][phrase]), ""]
    never = [f"`{item.name}`" for item in PKIFailureInfo if item.name not in table]
    parts += ["## The others\n", "These come from CAs alone: " + ", ".join(never) + ".", ""]
    return "\n".join(parts)


def _rows(rows: Iterable[Row]) -> Iterator[str]:
    yield "| Cause | Rule | In the log | Who | What to do |"
    yield "|---|---|---|---|---|"
    for row in rows:
        texts = list(row.texts[:_MOST_TEXTS]) + ["..."] * (len(row.texts) > _MOST_TEXTS)
        cells = (
            row.meaning.cause,
            ", ".join(row.rules),
            "<br>".join(texts),
            _WHO[row.meaning.who],
            row.meaning.todo,
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.stdout.write(reference())
