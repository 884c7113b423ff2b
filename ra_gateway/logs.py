"""Log lines: one per message, as JSON or for a terminal; nothing secret has a way into them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO, cast

import structlog

from ra_gateway.errors import printable
from ra_gateway.ra.events import MessageHandled

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_FIELDS: Final = (
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


class _StandardError:
    """Standard error as it is when a line is written: loggers outlive what replaced it for a while."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def configure(format_: Literal["json", "console"], level: str) -> None:
    """Set up logging to standard error for the whole process."""
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Plain tracebacks: the usual ones of a terminal show local variables, which may be keys.
        structlog.processors.format_exc_info,
        _clean,
        structlog.processors.JSONRenderer()
        if format_ == "json"
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        ),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _StandardError())),
        cache_logger_on_first_use=True,
    )
    logging.lastResort = _OtherLoggers(logging.WARNING)


def _clean(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Escape what would move a cursor, begin a line or hide text, also where a viewer decodes the JSON."""
    # A traceback has lines of its own.
    trace = "\n".join(map(printable, event.pop("exception", "").split("\n")))
    event = {name: _cleaned(value) for name, value in event.items()}
    return {**event, "exception": trace} if trace else event


def _cleaned(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {printable(str(key)): _cleaned(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_cleaned(item) for item in value]
    return printable(str(value))


class _OtherLoggers(logging.Handler):
    """Takes what libraries log by the standard library, which would reach standard error as it is."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info
        )


class LogSink:
    """Writes one line per handled message (`ra_gateway.ra.events.EventSink`)."""

    def __init__(self) -> None:
        self._log = structlog.get_logger()

    def __call__(self, event: MessageHandled) -> None:
        """Write the line: info for what went well, warning for a refusal, error for our own failure."""
        fields = {name: value for name in _FIELDS if (value := getattr(event, name))}
        if event.fail_info is not None:
            fields["fail_info"] = event.fail_info.name
        if event.quirks:
            fields["quirks"] = list(event.quirks)
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
            outcome=event.outcome,
            duration_ms=round(event.duration_ms, 2),
            **fields,
        )
