"""Whatever is logged is in the table that docs/log-fields.md is written from, and nothing else is in it."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import capture_logs

from ra_gateway import events
from ra_gateway.errors import PKIFailureInfo
from ra_gateway.events import Component, Fact, Outcome, RequestHandled
from ra_gateway.log_lines import FIELDS, FRAME, LINES, MESSAGE, OUTCOMES, Kind
from ra_gateway.logs import LogSink
from tests.support.log_table import faults, line_of

ROOT: Final = Path(__file__).parents[2]
PACKAGE: Final = ROOT / "ra_gateway"

# --- what is logged directly ----------------------------------------------------------------------------------

_LEVELS: Final = {"debug", "info", "warning", "error", "exception"}


def written(source: str) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Yield name, level and fields of the lines that a module writes; fields may come from a dict of its function."""
    todo: list[tuple[ast.AST, ast.AST]] = [(tree := ast.parse(source), tree)]
    while todo:
        call, around = todo.pop(0)
        inner = call if isinstance(call, ast.FunctionDef | ast.AsyncFunctionDef) else around
        todo += [(child, inner) for child in ast.iter_child_nodes(call)]
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name, logger = call.args[0], call.func
        for choice in (logger.body, logger.orelse) if isinstance(logger, ast.IfExp) else (logger,):
            if not isinstance(choice, ast.Attribute) or choice.attr not in _LEVELS:
                continue
            if ast.unparse(choice.value) not in ("log", "structlog.get_logger()"):
                continue
            assert isinstance(name, ast.Constant), ast.unparse(call)
            assert isinstance(name.value, str)
            fields = frozenset(
                field for keyword in call.keywords for field in _fields(keyword, around)
            )
            level = "error" if choice.attr == "exception" else choice.attr
            yield name.value, level, fields - {"exc_info"}


def _fields(keyword: ast.keyword, function: ast.AST) -> Iterator[str]:
    if keyword.arg is not None:
        yield keyword.arg
        return
    names = {item.id for item in ast.walk(keyword.value) if isinstance(item, ast.Name)}
    dicts = [item for item in ast.walk(keyword.value) if isinstance(item, ast.Dict)]
    for item in ast.walk(function):
        if isinstance(item, ast.Assign) and {*map(ast.unparse, item.targets)} & names:
            value = item.value
            choices = (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)
            dicts += [choice for choice in choices if isinstance(choice, ast.Dict)]
    assert dicts, f"nobody sees which fields {ast.unparse(keyword.value)} are"
    for found in dicts:
        for key in found.keys:
            assert isinstance(key, ast.Constant)
            assert isinstance(key.value, str)
            yield key.value


def everything_written() -> Iterator[tuple[str, str, frozenset[str]]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield from written(path.read_text())


def test_every_line_that_is_written_is_in_the_table() -> None:
    wrong = [
        (name, level, sorted(fields))
        for name, level, fields in everything_written()
        if (line := line_of(name)) is None
        or level not in line.levels
        or not fields <= {*line.fields, *FRAME}
    ]
    assert wrong == []


def test_the_check_sees_lines() -> None:
    found = list(
        written("def f():\n told = {'b': 1}\n (log.info if x else log.error)('n', a=1, **told)")
    )
    assert found == [("n", "info", frozenset("ab")), ("n", "error", frozenset("ab"))]


# --- what is told as a fact -----------------------------------------------------------------------------------

NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)


def handled(by: Component, **fields: Any) -> RequestHandled:
    usual: dict[str, Any] = {
        "endpoint": "ran",
        "peer": "192.0.2.7",
        "body_type": "ir",
        "outcome": Outcome.refused,
        "transaction_id": "ab",
        "duration_ms": 1.25,
        "domain": "acme",
        "signer": "CN=a",
        "signer_fingerprint": "ab",
        "subject": "CN=b",
        "serial_number": "ab",
        "upstream": "ca",
        "rule": "R1",
        "detail": "why",
        "quirks": ("any_cert_req_id",),
        "operation": "initialization",
        "batch": "ab",
        "requester": "ra",
        "entity": "CN=b",
    }
    return RequestHandled(by=by, **usual | fields)


FACTS: Final[tuple[Fact, ...]] = (
    *(handled(by) for by in Component),
    *(handled(by, fail_info=PKIFailureInfo.badPOP) for by in Component),
    *(handled(by, body_type="", fail_info=PKIFailureInfo.badPOP) for by in Component),
    *(handled(by, outcome=Outcome.failed, bug=ValueError()) for by in Component),
    *(handled(by, outcome=Outcome.batched, body_type="nested", messages=3) for by in Component),
    handled(Component.gateway, outcome=Outcome.issued),
    events.AnswerLost("ca", "ran", "acme", "0f", "0f", "CN=x", "ab", NOW, "gone"),
    events.CertificatesWithdrawn(Component.ca, (b"", b"")),
    events.CRLPublished("ab", 2, 1, NOW, 100),
    events.CRLPublished("ab", 1, None, NOW, 100),
    events.HTTPRefused(Component.ca, "status", "192.0.2.7", "GET", "/x", 404, "No.", 3, 2),
    events.HTTPRefused(Component.gateway, "cmp", "192.0.2.7", "", "", None, "No.", 3),
    events.StoreLost(Component.ca, "why"),
    events.StoreFound(Component.gateway, 1.0),
    events.UpstreamDown("ca", "why"),
    events.UpstreamUp("ca", 1.0),
    events.InventoryChanged(3, 1, 1, 1),
    events.InventoryChanged(3, 1, 1, 1, ("what",)),
    events.InventoryRefused(("what",), 3),
    events.ConfigurationReloaded(Component.ca, "ab"),
    events.ReloadRefused(Component.ca, ("what",)),
    events.CredentialChanged("CN=a", "ab", NOW),
)
UNLOGGED: Final = {
    events.TransactionChanged,
    events.CertificateIssued,
    events.CertificateConfirmed,
    events.UpstreamFailed,
    events.MessageForwarded,
    events.ServiceStarted,
    events.TrustChanged,
    events.PersonActed,
}
"""What metrics count, or the audit trail has, and another line tells."""


def lines_of_facts() -> list[dict[str, Any]]:
    sink = LogSink()
    with capture_logs() as lines:
        for fact in FACTS:
            sink(fact)
    for line in lines:
        line["level"] = line.pop("log_level")
        line.pop("exc_info", None)
    return [dict(line) for line in lines]


def test_the_line_of_every_fact_is_in_the_table() -> None:
    """With values of the kind that the table has, which is one for each field, wherever it stands."""
    assert {*map(type, FACTS)} | UNLOGGED == set(events.Fact.__args__)
    assert [fault for line in lines_of_facts() for fault in faults(line)] == []


@pytest.mark.parametrize(
    "told",
    [
        {"event": "ca.answered", "level": "info", "signer": "ab"},
        {"event": "ca.answered", "level": "info", "serial_number": 5},
        {"event": "ca.answered", "level": "error"},
        {"event": "some.other", "level": "info"},
        {"event": "ir", "level": "info", "transaction_id": "CN=a"},
    ],
)
def test_the_check_finds_what_is_not_in_the_table(told: dict[str, Any]) -> None:
    assert len(list(faults(told))) == 1


# --- the table itself -----------------------------------------------------------------------------------------


def test_the_table_has_nothing_else() -> None:
    """No line that nobody writes, no field that no line has, and no field of a line that is never there."""
    seen: dict[str, set[str]] = {}
    for name, _, fields in everything_written():
        seen.setdefault(name, set()).update(fields)
    for told in lines_of_facts():
        name = told["event"] if told["event"] in LINES else "ir"
        seen.setdefault(name, set()).update(told)
    for name, line in {**LINES, "ir": MESSAGE}.items():
        extra = set(line.fields) - seen.get(name, set())
        assert name in seen
        assert extra <= ({"ca_rule", "ca_detail"} if name in ("ir", "unreadable") else set()), name
    used = {field for line in (*LINES.values(), MESSAGE) for field in line.fields}
    assert used | {"logger"} == set(FIELDS)
    assert not used & set(FRAME)
    assert set(OUTCOMES) == {outcome.value for outcome in Outcome}
    assert {field.kind for field in (*FIELDS.values(), *FRAME.values())} == set(Kind)


def test_the_page_is_current() -> None:
    """Whoever changes the table writes the page anew."""
    write: Callable[[], str] = runpy.run_path(str(ROOT / "docs/log_fields.py"))["reference"]
    assert (ROOT / "docs/log-fields.md").read_text() == write(), (
        "run: python docs/log_fields.py > docs/log-fields.md"
    )
