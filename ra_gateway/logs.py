"""Log lines: one per message, as JSON or for a terminal; nothing secret has a way into them, nor anything long."""

from __future__ import annotations

import json
import logging
import os
import stat
import sys
import threading
from collections.abc import MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import partial
from io import FileIO
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, TextIO, cast

import structlog

from ra_gateway.errors import ConfigError, printable
from ra_gateway.events import (
    BY_CA,
    AnswerLost,
    CertificatesWithdrawn,
    Component,
    ConfigurationReloaded,
    CredentialChanged,
    CRLPublished,
    EventSink,
    Fact,
    HTTPRefused,
    InventoryChanged,
    InventoryRefused,
    ReloadRefused,
    RequestHandled,
    StoreFound,
    StoreLost,
    UpstreamDown,
    UpstreamUp,
)

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_PRIORITIES: Final = {
    "critical": "<2>",
    "exception": "<3>",
    "error": "<3>",
    "warning": "<4>",
    "info": "<6>",
    "debug": "<7>",
}

_FIELDS_OF_LOST: Final = (
    *("upstream", "endpoint", "domain", "transaction_id", "ca_transaction_id", "subject"),
    *("key_sha256", "detail"),
)

_FIELDS_OF_GATEWAY: Final = (
    "endpoint",
    "peer",
    "domain",
    "signer",
    "signer_fingerprint",
    "upstream",
    "subject",
    "serial_number",
    "rule",
    "detail",
)
_FIELDS_OF_CA: Final = {
    "transaction_id": "transaction_id",
    "body_type": "body_type",
    "peer": "peer",
    "operation": "operation",
    "batch": "batch",
    "ra": "requester",
    "signer_fingerprint": "signer_fingerprint",
    "entity": "entity",
    "serial_number": "serial_number",
}
"""Names in the log, and of the event."""

_MOST_CAUSES: Final = 256

MAX_LINE_OCTETS: Final = 4096
"""Of one line, whatever was sent; a traceback on a terminal, which has lines of its own, is within them."""

_MAX_FIELDS: Final = 40
_MAX_ITEMS: Final = 16
_MAX_ITEM_CHARACTERS: Final = 256
_MAX_DEPTH: Final = 2
_OVERHEAD_OCTETS: Final = 8  # of a field: quotes, colon, comma, blanks, colours aside
_LINE_OVERHEAD_OCTETS: Final = 512  # time, level, colours of a terminal, the list of what was cut
_NUMBER_CHARACTERS: Final = 24  # of a float at most
_ROUGHLY: Final = 6  # octets that one character can take in JSON: \\uXXXX
_ELLIPSIS: Final = "..."
_KEPT_LAST: Final = "exception"
"""The one field whose end says more than its beginning: a traceback ends with what was raised."""


def bounded(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> dict[str, Any]:
    """Cut the fields of a log line so that it has at most `MAX_LINE_OCTETS`, list those that were cut, and escape.

    A processor of structlog, right before the renderer, so that every line passes it, whoever writes it. What would
    move a cursor, begin a line or hide text is escaped, also for viewers that decode the JSON. The longest fields are
    cut, and so far that all fit.
    """
    if _is_short(fields):
        return cast("dict[str, Any]", fields)
    lost: list[str] = []  # fields that are not whole
    line = {}
    characters = 0
    for name, value in islice(fields.items(), _MAX_FIELDS):
        if _is_plain(value):
            line[name] = value
        else:
            line[name] = _cleaned(_plain(value, name, lost), name)
        characters += len(str(line[name]))
    if len(fields) > _MAX_FIELDS:
        lost.append(f"{len(fields) - _MAX_FIELDS} fields")
    if isinstance(trace := fields.get(_KEPT_LAST), str):
        trace = trace[-MAX_LINE_OCTETS - 1 :]
        line[_KEPT_LAST] = _cleaned(trace, _KEPT_LAST)
        characters += len(trace)
    room = MAX_LINE_OCTETS - _LINE_OVERHEAD_OCTETS
    if _ROUGHLY * characters > room:
        sizes = {
            name: _octets(value) + len(name) + _OVERHEAD_OCTETS for name, value in line.items()
        }
        share = _share(sorted(sizes.values()), room)
        for name, size in sizes.items():
            if size > share:
                most = share - len(name) - _OVERHEAD_OCTETS
                line[name] = _cut(line[name], most, from_end=name == _KEPT_LAST)
                lost.append(name)
    if lost:
        line["cut"] = ", ".join(dict.fromkeys(lost))[:256]
    return line


def _is_short(fields: MutableMapping[str, Any]) -> bool:
    """Tell whether nothing is to be done about a line, as of most."""
    characters = 0
    for value in fields.values():
        if type(value) is not str:
            if not _is_plain(value):
                return False
            characters += _NUMBER_CHARACTERS
        elif value.isascii() and value.isprintable():
            characters += len(value)
        else:
            return False
    most = (MAX_LINE_OCTETS - _LINE_OVERHEAD_OCTETS) // _ROUGHLY
    return characters <= most and len(fields) <= _MAX_FIELDS


def _share(sizes: list[int], room: int) -> int:
    """Return how much the longest fields may take where the shorter ones stay as they are."""
    for index, size in enumerate(sizes):
        share = room // (len(sizes) - index)
        if size > share:
            return share
        room -= size
    return sizes[-1]


def _is_plain(value: Any) -> bool:
    """Tell whether a value may stay as it is; most are short texts."""
    if type(value) is str:
        return len(value) <= _MAX_ITEM_CHARACTERS and value.isascii() and value.isprintable()
    return value is None or type(value) is float or type(value) is bool


def _plain(value: Any, field: str, lost: list[str], depth: int = 0) -> Any:
    """Return a value that every renderer can write, its texts, numbers and lists bounded before they are walked.

    Args:
        field, lost: The field's name, and where it goes if something was left out.
    """
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and value.bit_length() <= 64:
        return value
    if isinstance(value, list | tuple | set | frozenset | dict) and depth < _MAX_DEPTH:
        if len(value) > _MAX_ITEMS:
            lost.append(field)
        some = [_plain(item, field, lost, depth + 1) for item in islice(value, _MAX_ITEMS)]
        if isinstance(value, dict):
            items = islice(value.values(), _MAX_ITEMS)
            of_some = [_plain(item, field, lost, depth + 1) for item in items]
            return dict(zip(map(str, some), of_some, strict=True))
        return some
    most = MAX_LINE_OCTETS if depth == 0 else _MAX_ITEM_CHARACTERS
    if isinstance(value, list | tuple | set | frozenset | dict):
        text = _ELLIPSIS
        lost.append(field)
    elif isinstance(value, bytes):
        text = value[: most + 1].hex()
    else:
        text = hex(value) if isinstance(value, int) else str(value)
    if len(text) > most:
        lost.append(field)
    return text[:most]


def _cleaned(value: Any, field: str = "") -> Any:
    if isinstance(value, dict):
        return {printable(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if not isinstance(value, str):
        return value
    if field == _KEPT_LAST:  # a traceback has lines of its own
        return "\n".join(map(printable, value.split("\n")))
    return printable(value)


def _octets(value: Any) -> int:
    return len(json.dumps(value, default=str))


def _cut(value: Any, most: int, *, from_end: bool) -> str:
    """Return the beginning, or the end, of a value as a text of at most so many octets in JSON."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    most = max(most - len(_ELLIPSIS) - 2, 0)
    kept = text[-most:] if from_end and most else text[:most]
    while _octets(kept) - 2 > most:
        over = _octets(kept) - 2 - most
        less = max(1, over // _ROUGHLY)
        kept = kept[less:] if from_end else kept[:-less]
    return _ELLIPSIS + kept if from_end else kept + _ELLIPSIS


class LogOutput:
    """How lines are written, and where: to a file, which is opened, or to standard error.

    Args:
        level: Least severity.
        path: Appended to, and made with mode 0640; None for standard error.

    Raises:
        ConfigError: The file cannot be written to.
    """

    def __init__(
        self, format_: Literal["json", "console"], level: str, path: Path | None = None
    ) -> None:
        self.path = path
        self.file = None if path is None else _opened(path)
        processors: list[Any] = [partial(_begun, _LEVELS[level]), bounded]
        if format_ == "json":
            processors.append(_as_json)
        else:
            processors.append(
                structlog.dev.ConsoleRenderer(
                    colors=path is None and sys.stderr.isatty(),
                    exception_formatter=structlog.dev.plain_traceback,
                )
            )
        if path is None and _is_journal(os.environ.get("JOURNAL_STREAM", "")):
            processors.insert(-1, _note_priority)
            processors.append(_with_priority)
        self.processors = tuple(processors)

    def close(self) -> None:
        """Close the file; again is harmless."""
        if self.file is not None:
            self.file.close()


def _opened(path: Path) -> FileIO:
    try:
        # Not blocking, so that a FIFO in its place does not hold the process for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        file = FileIO(os.open(path, flags, 0o640), "ab")
    except OSError as error:
        raise _unwritable(path, error.strerror or "") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise _unwritable(path, "it is no file")
    return file


def _unwritable(path: Path, why: str) -> ConfigError:
    return ConfigError.of(
        "log.path",
        f"{path} cannot be written to: {why}",
        "Name a file that the service's user may write to; without the key, standard error is written to",
    )


_METHOD_LEVELS: Final = {"exception": "error", "warn": "warning"}


def _begun(
    least: int, logger: object, method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Add level and time, and a traceback where there is one: in one step what structlog has a processor each for."""
    level = fields["level"] = _METHOD_LEVELS.get(method, method)
    if _LEVELS.get(level, logging.CRITICAL) < least:
        raise structlog.DropEvent
    fields["timestamp"] = datetime.now(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
    if "exc_info" in fields:
        # Plain tracebacks: the usual ones of a terminal show local variables, which may be keys.
        return structlog.processors.format_exc_info(logger, method, cast("Any", fields))
    return fields


_JSON: Final = json.JSONEncoder(default=str)


def _as_json(_logger: object, _method: str, fields: MutableMapping[str, Any]) -> str:
    return _JSON.encode(fields)


class _Lines:
    """The stream of all loggers, which outlive what replaces their output."""

    def __init__(self) -> None:
        self._output: LogOutput | None = None
        self._is_cut_off = False
        self._changing = threading.Lock()  # lines are written by threads, too

    def use(self, output: LogOutput) -> None:
        with self._changing:
            old, self._output = self._output, output
            if old is not None:
                old.close()

    def process(
        self, logger: object, method: str, fields: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        output = self._output
        assert output is not None  # `configure` has been called
        for processor in output.processors:
            fields = processor(logger, method, fields)
        return fields

    def write(self, text: str) -> int:
        with self._changing:
            file = None if self._output is None else self._output.file
            if file is not None:
                # Behind the beginning of a line that the disk had no room for the end of, one begins anew.
                line = text.encode(errors="backslashreplace")
                left = memoryview(b"\n" + line if self._is_cut_off else line)
                try:
                    while left:
                        left = left[file.write(left) or 0 :]
                        self._is_cut_off = bool(left)
                    return len(text)
                except OSError:  # a full disk: nobody is to wait for it, and the line is to be seen
                    pass
            return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def reopen(self) -> None:
        """Go on in the file that is under the path now, as its former one was moved away; else in that one.

        Raises:
            ConfigError: It cannot be written to.
        """
        output = self._output
        if output is not None and output.path is not None:
            file = _opened(output.path)
            with self._changing:
                output.close()
                output.file = file


_LINES: Final = _Lines()
reopen: Final = _LINES.reopen


def use(output: LogOutput) -> None:
    """Have all lines of this process written so from now on; none is lost."""
    _LINES.use(output)
    structlog.configure(
        processors=[_LINES.process],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _LINES)),
        cache_logger_on_first_use=True,
    )
    logging.lastResort = _OtherLoggers(logging.WARNING)


def configure(format_: Literal["json", "console"], level: str, path: Path | None = None) -> None:
    """Set up logging for the whole process: to standard error, or to a file.

    Raises:
        ConfigError: The file cannot be written to.
    """
    use(LogOutput(format_, level, path))


def _is_journal(stream: str) -> bool:
    """Tell whether standard error is the journal's (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


_PRIORITY: ContextVar[str] = ContextVar("priority", default="<6>")
"""Of the line that is being written (sd-daemon(3)), from before it is a text until after."""


def _note_priority(
    _logger: object, method: str, fields: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    _PRIORITY.set(_PRIORITIES.get(str(fields.get("level", method)), "<6>"))
    return fields


def _with_priority(_logger: object, _method: str, text: str) -> str:
    """Put its priority before each line of a text: the journal takes it off, and finds errors by it."""
    priority = _PRIORITY.get()
    return "\n".join(priority + line for line in text.split("\n"))


class _OtherLoggers(logging.Handler):
    """Takes what libraries log by the standard library, which would reach standard error as it is."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info
        )


_OF_HTTP: Final = ("listener", "peer", "method", "path", "status", "reason", "refused", "untold")


class LogSink:
    """Writes one line for each fact that is to be seen (`ra_gateway.events.EventSink`)."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()
        # Why the bundled CA refused, by transactionID: its line comes before the gateway's.
        self._causes: dict[str, dict[str, str]] = {}

    def __call__(self, event: Fact) -> None:
        """Write the line: info for what went well, warning for a refusal, error for our own failure."""
        match event:
            case RequestHandled(by=Component.gateway):
                self._answered_by_gateway(event)
            case RequestHandled():
                self._answered_by_ca(event)
            case AnswerLost():
                self._log.error(
                    "answer.lost",
                    **{name: value for name in _FIELDS_OF_LOST if (value := getattr(event, name))},
                    asked_at=event.asked_at.isoformat(),
                    todo=f"look at the CA of {event.upstream} for a certificate with this subject and key that was "
                    "issued at that time; nobody has it: revoke it there",
                )
            case CertificatesWithdrawn(by=Component.ca, rejected=False):
                self._log.warning("ca.unconfirmed", revoked=len(event.certificates))
            case CRLPublished():
                base = event.base_number
                self._log.info(
                    "crl",
                    issuer_id=event.issuer_id,
                    number=event.number,
                    **({} if base is None else {"base_number": base}),
                    next_update=event.next_update.isoformat(),
                    size_bytes=event.size_bytes,
                    outcome="made",
                )
            case HTTPRefused():
                fields = {name: value for name in _OF_HTTP if (value := getattr(event, name))}
                self._log.warning("http.refused", by=event.by, **fields)
            case StoreLost():
                self._log.error("store.down", by=event.by, detail=event.detail)
            case StoreFound():
                self._log.info("store.up", by=event.by, down_seconds=round(event.lost_seconds, 1))
            case UpstreamDown():
                self._log.error("upstream.down", upstream=event.upstream, detail=event.detail)
            case UpstreamUp():
                seconds = round(event.down_seconds, 1)
                self._log.info("upstream.up", upstream=event.upstream, down_seconds=seconds)
            case InventoryChanged():
                counts = {
                    name: getattr(event, name)
                    for name in ("devices", "added", "changed", "removed")
                }
                if event.warnings:
                    self._log.warning("inventory.changed", **counts, warnings=list(event.warnings))
                else:
                    self._log.info("inventory.changed", **counts)
            case InventoryRefused():
                self._log.error(
                    "inventory.refused",
                    problems=list(event.problems),
                    devices=event.devices,
                    todo="correct the file; until then the list of before holds",
                )
            case ConfigurationReloaded():
                self._log.info("config.reloaded", by=event.by, digest=event.digest)
            case ReloadRefused():
                self._log.error(
                    "config.reload_refused",
                    by=event.by,
                    problems=list(event.problems),
                    todo="mend these and reload again; until then everything goes on as before",
                )
            case CredentialChanged():
                self._log.info(
                    "ra.credential_changed",
                    subject=event.subject,
                    serial_number=event.serial_number,
                    not_after=event.not_after.isoformat(),
                )

    def _answered_by_gateway(self, event: RequestHandled) -> None:
        fields = {name: value for name in _FIELDS_OF_GATEWAY if (value := getattr(event, name))}
        if event.fail_info is not None:
            fields["fail_info"] = event.fail_info.name
        if event.quirks:
            fields["quirks"] = list(event.quirks)
        if event.rule == BY_CA or event.outcome == "failed":
            fields |= self._causes.get(event.transaction_id, {})
        write = self._log.info
        if event.bug is not None:
            write, fields["exc_info"] = self._log.error, event.bug
        elif event.outcome == "failed":
            write = self._log.error
        elif event.outcome in ("refused", "rejected", "unconfirmed"):
            write = self._log.warning
        write(
            event.body_type or "unreadable",
            transaction_id=event.transaction_id,
            outcome=event.outcome.value,
            duration_ms=round(event.duration_ms, 2),
            **fields,
        )

    def _answered_by_ca(self, event: RequestHandled) -> None:
        fields: dict[str, Any] = {"outcome": event.outcome}
        for name, attribute in _FIELDS_OF_CA.items():
            if value := getattr(event, attribute):
                fields[name] = value
        if event.bug is not None:
            self._log.error("ca.failed", **fields, exc_info=event.bug)
        elif (code := event.fail_info) is not None:
            why = {"fail_info": code.name, "rule": event.rule, "detail": event.detail}
            self._note_cause(event.transaction_id, event.rule, event.detail)
            self._log.warning("ca.refused", **fields, **why)
        elif event.messages is not None:
            self._log.info("ca.answered", **fields, messages=event.messages)
        else:
            self._log.info("ca.answered", **fields)

    def _note_cause(self, transaction_id: str, rule: str, detail: str) -> None:
        if transaction_id:
            self._causes.pop(transaction_id, None)  # the newest stands at the end
            self._causes[transaction_id] = {"ca_rule": rule, "ca_detail": detail}
            if len(self._causes) > _MOST_CAUSES:
                del self._causes[next(iter(self._causes))]


def fan_out(*sinks: EventSink) -> EventSink:
    """Return a sink that hands every fact to others; one that raises stops neither these nor the request."""

    def tell(event: Fact) -> None:
        for sink in sinks:
            try:
                sink(event)
            except Exception:  # a bug of the sink
                structlog.get_logger().exception("event.sink_failed", fact=type(event).__name__)

    return tell
