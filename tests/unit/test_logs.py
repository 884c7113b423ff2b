"""What log lines show, and what they do not."""

from __future__ import annotations

import json
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog
from structlog.testing import capture_logs

from ra_gateway import logs
from ra_gateway.errors import ConfigError, PKIFailureInfo
from ra_gateway.events import BY_CA, Component, HTTPRefused, Outcome, RequestHandled
from ra_gateway.logs import LogSink


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave structlog as it was, and no file open."""
    before = structlog.get_config()
    yield
    logs.configure("json", "info")
    structlog.configure(**before)


@pytest.mark.requirement(159)
@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_variables(
    form: Literal["json", "console"], capfd: pytest.CaptureFixture[str]
) -> None:
    """A bug is told with the lines it went through, but not with the secrets that were at hand there."""

    def fail(secret: bytes) -> None:
        raise RuntimeError(f"a bug with {len(secret)} octets")

    logs.configure(form, "info")
    try:
        fail(bytes.fromhex("736563726574"))
    except RuntimeError:
        structlog.get_logger().exception("failed")
    shown = capfd.readouterr().err
    assert "a bug with 6 octets" in shown
    assert "in fail" in shown
    assert "b'secret'" not in shown


LONG = {
    "ascii": "x" * 100_000,
    "controls": "\x1b\x00\n" * 30_000,
    "beyond the plane": "\U0001f4a3" * 30_000,
    "quotes": '"\\' * 50_000,
    "number": 1 << 400_000,
    "octets": b"\xff" * 100_000,
    "list": ["y" * 5000] * 10_000,
    "nested": {"a": [[["z" * 60_000] * 100] * 100] * 100, **dict.fromkeys("bcdefgh", "z" * 60_000)},
}


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("kind", LONG)
def test_a_line_is_bounded_whatever_is_in_it(
    form: Literal["json", "console"], kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """4 kB at most, by whichever field; what was cut is listed, and what was short stays."""
    for fields in (
        {"detail": LONG[kind]},
        {f"field_{number}": LONG[kind] for number in range(12)},
        {f"field_{number}": LONG[kind] for number in range(1000)},
    ):
        logs.configure(form, "info")
        structlog.get_logger().info("ir", transaction_id="abcd", **fields)
        (line,) = capfd.readouterr().err.splitlines()
        assert len(line.encode()) <= logs.MAX_LINE_OCTETS
        assert "abcd" in line
        assert next(iter(fields)) in line
        assert "cut" in line
        if form == "json":
            told = json.loads(line)
            assert told["transaction_id"] == "abcd"
            assert set(told["cut"].split(", ")) & set(fields)


def test_the_event_of_a_long_message_is_one_short_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Every field of the line that a handled message gets may be as long as the message."""
    logs.configure("json", "info")
    long = "00" * 60_000
    event = RequestHandled(
        Component.gateway,
        long,
        long,
        "ir",
        Outcome.refused,
        long,
        1.0,
        *(long,) * 6,
        rule=long,
        detail=long,
    )
    logs.LogSink()(event)
    (line,) = capfd.readouterr().err.splitlines()
    assert len(line) <= logs.MAX_LINE_OCTETS
    assert json.loads(line)["outcome"] == "refused"


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_long_traceback_keeps_its_end(
    form: Literal["json", "console"], capfd: pytest.CaptureFixture[str]
) -> None:
    """What was raised is told last; it is not what is cut."""

    def deep(left: int) -> None:
        if not left:
            raise RuntimeError("the end of it")
        deep_too(left - 1)

    def deep_too(left: int) -> None:
        deep(left)

    logs.configure(form, "info")
    try:
        deep(100)
    except RuntimeError:
        structlog.get_logger().exception("failed")
    shown = capfd.readouterr().err
    assert "the end of it" in shown
    assert len(shown.encode()) <= logs.MAX_LINE_OCTETS


def test_an_ordinary_line_is_left_alone() -> None:
    """Nothing is cut, and nothing is added."""
    fields = {"event": "ir", "detail": "x" * 400, "quirks": ["sha1"], "duration_ms": 1.5}
    assert logs.bounded(None, "info", dict(fields)) == fields


@pytest.mark.parametrize("text", ["\x1b[31mred", "one\nanother", "\x7f"])
def test_a_short_field_is_escaped_before_it_is_rendered(text: str) -> None:
    """Also for viewers that decode the JSON: an escape of JSON alone would be undone by them."""
    assert logs.bounded(None, "info", {"detail": text})["detail"].isprintable()


def test_a_refusal_by_http_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    """What there is to tell, and nothing else."""
    logs.configure("json", "info")
    logs.LogSink()(
        HTTPRefused(Component.ca, "status", "192.0.2.7", "POST", "/wrong", 404, "No.", 3)
    )
    line = json.loads(capfd.readouterr().err)
    assert {key: line[key] for key in line if key not in ("timestamp", "level")} == {
        "event": "http.refused",
        "by": "ca",
        "listener": "status",
        "peer": "192.0.2.7",
        "method": "POST",
        "path": "/wrong",
        "status": 404,
        "reason": "No.",
        "refused": 3,
    }


@pytest.mark.parametrize("format_", ["json", "console"])
def test_the_journal_is_told_how_severe_a_line_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, format_: Literal["json", "console"]
) -> None:
    """Lines of a traceback too; and nobody else is told, as a variable outlives what it was set for."""
    with (tmp_path / "log").open("w+") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        logs.configure(format_, "debug")
        log = structlog.get_logger("journal")
        log.info("good")
        try:
            raise ValueError("two\nlines")
        except ValueError:
            log.exception("bad")
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:1")
        logs.configure(format_, "debug")
        structlog.get_logger("other").error("plain")
        stream.seek(0)
        good, *bad, plain = stream.read().splitlines()
    assert good.startswith("<6>")
    assert all(line.startswith("<3>") for line in bad)
    assert bad
    assert not plain.startswith("<")


def texts(path: Path) -> list[str]:
    """Return the events of the lines of a file, each of which has to be whole."""
    return [json.loads(line)["event"] for line in path.read_text().splitlines()]


def test_lines_go_to_a_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """They are appended, whoever moves it away; it goes on in a new one once that is asked for."""
    path, moved = tmp_path / "ra.log", tmp_path / "ra.log.1"
    path.write_text('{"event": "of before"}\n')
    logs.configure("json", "info", path)
    log = structlog.get_logger()
    log.info("first")
    path.rename(moved)
    log.info("second")
    logs.reopen()
    log.info("third")
    assert texts(moved) == ["of before", "first", "second"]
    assert texts(path) == ["third"]
    assert stat.S_IMODE(path.stat().st_mode) & ~0o640 == 0
    logs.configure("json", "info")
    log.info("fourth")
    assert json.loads(capfd.readouterr().err)["event"] == "fourth"


def test_no_line_is_lost_when_the_file_changes(tmp_path: Path) -> None:
    """Threads write all the time, while it is moved away again and again, and the output replaced."""
    path = tmp_path / "ra.log"
    logs.configure("json", "info", path)

    def write(thread: int) -> None:
        log = structlog.get_logger()
        for number in range(200):
            log.info(f"{thread} {number}")

    with ThreadPoolExecutor(3) as threads:
        writing = [threads.submit(write, thread) for thread in range(3)]
        for turn in count():
            path.rename(tmp_path / f"ra.log.{turn}")
            logs.reopen() if turn % 2 else logs.use(logs.LogOutput("json", "info", path))
            if all(future.done() for future in writing):
                break
    found = [text for file in tmp_path.iterdir() for text in texts(file)]
    assert sorted(found) == sorted(f"{thread} {n}" for thread in range(3) for n in range(200))


def test_loggers_go_by_another_configuration(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also those that have written before: the level and the format are others now."""
    log = structlog.get_logger()
    logs.configure("json", "warning")
    log.info("unheard")
    logs.configure("console", "debug", tmp_path / "ra.log")
    log.debug("heard")
    assert "[debug    ] heard" in (tmp_path / "ra.log").read_text()
    assert capfd.readouterr().err == ""


def directory(path: Path) -> None:
    path.mkdir()


def fifo(path: Path) -> None:
    os.mkfifo(path)


def below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.touch()


@pytest.mark.parametrize("spoil", [directory, fifo, below_a_file])
def test_a_file_that_cannot_be_written_to_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], spoil: Callable[[Path], None]
) -> None:
    """Whatever was written to before is still."""
    logs.configure("json", "info")
    path = tmp_path / "logs" / "ra.log"
    path.parent.mkdir()
    spoil(path)
    with pytest.raises(ConfigError, match=r"log.path: .* cannot be written to"):
        logs.configure("json", "info", path)
    structlog.get_logger().info("still")
    assert json.loads(capfd.readouterr().err)["event"] == "still"


@contextmanager
def room_for(octets: int) -> Iterator[None]:
    """No file gets longer."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    before_signal = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, before_signal)


def test_a_full_disk_stops_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its lines go to standard error."""
    logs.configure("json", "info", tmp_path / "ra.log")
    with room_for(0):
        structlog.get_logger().info("seen")
    assert "seen" in capsys.readouterr().err


def test_a_line_that_was_cut_off_spoils_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a full disk, the first part of a line is taken yet."""
    logs.configure("json", "info", tmp_path / "ra.log")
    with room_for(20):
        structlog.get_logger().info("seen")
        structlog.get_logger().info("seen, too")
    structlog.get_logger().info("there is room")
    structlog.get_logger().info("again")
    assert len(capsys.readouterr().err.splitlines()) == 2
    cut, *lines = (tmp_path / "ra.log").read_text().splitlines()
    assert len(cut) == 20
    assert [json.loads(line)["event"] for line in lines] == ["there is room", "again"]


def handled(by: Component, transaction_id: str, **fields: Any) -> RequestHandled:
    usual: dict[str, Any] = {"outcome": Outcome.refused, "rule": BY_CA, "detail": "the CA refused"}
    usual |= {"endpoint": "ran", "peer": "", "body_type": "ir", "duration_ms": 1.0}
    return RequestHandled(by=by, transaction_id=transaction_id, **usual | fields)


def of_ca(transaction_id: str, detail: str = "blocked") -> RequestHandled:
    code = PKIFailureInfo.notAuthorized
    return handled(Component.ca, transaction_id, fail_info=code, rule="R58", detail=detail)


def causes(*facts: RequestHandled) -> list[str | None]:
    """Return why the CA refused, of each line of the gateway's."""
    sink = LogSink()
    with capture_logs() as lines:
        for fact in facts:
            sink(fact)
    return [line.get("ca_detail") for line in lines if line["event"] == "ir"]


def test_the_line_of_what_the_bundled_ca_refused_says_why() -> None:
    """As far as it is known, of the same transaction, and where it was the CA that refused."""
    by_gateway = partial(handled, Component.gateway)
    assert causes(of_ca("ab"), by_gateway("ab"), by_gateway("cd")) == ["blocked", None]
    assert causes(of_ca("ab", "first"), of_ca("ab", "then"), by_gateway("ab")) == ["then"]
    failed = {"outcome": Outcome.failed, "rule": "R84"}
    assert causes(of_ca("ab"), by_gateway("ab", **failed)) == ["blocked"]
    for fields in ({"rule": "R21"}, {"outcome": Outcome.issued, "rule": ""}):
        assert causes(of_ca("ab"), by_gateway("ab", **fields)) == [None]
    assert causes(of_ca(""), by_gateway("", **failed)) == [None]
    many = [of_ca(f"{number:04x}") for number in range(1000)]
    assert causes(*many, by_gateway("03e7"), by_gateway("0000")) == ["blocked", None]
