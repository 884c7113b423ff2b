"""Commands that the documents and the examples in help print, and a prompt at which tests run them as they stand."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import typer.main
from typer.testing import CliRunner

from ra_gateway.cli.main import app
from tests.support.commands import Command
from tests.support.patience import PATIENCE_SECONDS, await_text

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = tuple(
    sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")))
)

PROGRAMS: Final = frozenset(
    (
        "cd", "chmod", "chown", "cp", "curl", "docker", "echo", "helm", "install", "journalctl",
        "kubectl", "ln", "make", "openssl", "pipx", "pkcs11-tool", "promtool", "python",
        "python3", "pip", "ra-gateway", "redis-cli", "runuser", "setup.sh", "softhsm2-util", "step", "sudo",
        "systemctl", "tcpdump", "umask", "useradd", "vault",
    )
)  # fmt: skip
"""What a block of commands begins with; `test_every_command_is_run` says of others that they are missing here."""

HELP: Final = "help"
"""Stands for a page, where the examples in `--help` are meant."""


class Printed(NamedTuple):
    """A command on a page.

    Args:
        page: Path below the root of the tree, or `HELP`.
        section: Heading that it stands under.
        text: As a shell takes it, on one line; without comments.
    """

    page: str
    section: str
    text: str

    @property
    def program(self) -> str:
        """Name of the first program in it."""
        return first_program(self.text)


def first_program(line: str) -> str:
    """Return the name of the program that a line of a shell begins with."""
    words = line.lstrip("$( ").split()
    while words and re.match(r"\w+=", words[0]):
        del words[0]
    return Path(words[0].rstrip(";")).name if words else ""


def blocks(page: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield heading and lines of every block of code on a page, indented or fenced; an empty line begins another."""
    heading, lines, fenced = "", list[str](), False
    for line in [*page.read_text().splitlines(), "end"]:
        fence = line.startswith("```")
        code = not fence and (fenced or line.startswith("    "))
        if lines and not (code and line):
            yield heading, lines
            lines = []
        if code and line:
            lines.append(line)
        if fence:
            fenced = not fenced
        elif not fenced and (found := re.match(r"#+ (.*)", line)):
            heading = found[1]


def is_shell(lines: list[str]) -> bool:
    """Tell whether a block holds commands."""
    return first_program(lines[0].strip()) in PROGRAMS


def on_page(page: str, section: str | None = None) -> list[Printed]:
    """Return the commands of a page, or of one section of it, in their order."""
    if page == HELP:
        return list(in_help())
    return [
        Printed(page, heading, text)
        for heading, lines in blocks(ROOT / page)
        if is_shell(lines) and section in (None, heading)
        for text in commands(lines)
    ]


def in_help() -> Iterator[Printed]:
    """Yield the examples in `--help`, in the order of the commands."""
    groups = [typer.main.get_command(app)]
    while groups:
        command: Any = groups.pop(0)
        groups[:0] = getattr(command, "commands", {}).values()
        lines = (command.epilog or "").removeprefix("\b\nExamples:\n").splitlines()
        for text in commands(lines):
            yield Printed(HELP, command.name, text)


def commands(lines: list[str]) -> Iterator[str]:
    """Yield the commands of a block: continued lines are joined, comments are left out, here-documents stay."""
    rest = list(lines)
    while rest:
        text = rest.pop(0).strip()
        while text.endswith("\\"):
            text = text[:-1].rstrip() + " " + rest.pop(0).strip()
        text = re.sub(r"(^|\s+)#\s.*", "", text).removeprefix("$ ")
        if (here := re.search(r"<<(\w+)", text)) is not None:
            while not text.endswith(f"\n{here[1]}"):
                text += "\n" + rest.pop(0).strip()
        if text:
            yield text


class Ended(NamedTuple):
    """How a command ended, and what it wrote to its outputs."""

    exit_code: int
    output: str


class Prompt:
    """A directory in which printed commands are run, one after the other, as they stand.

    A single command of ours runs in this process, or as a child of the fork server while it serves; all else is bash's,
    which finds `ra-gateway` on its path. Where `cd` and `umask` lead is kept for the next one.

    Args:
        directory: Where commands begin.
        texts: What a page cannot know, such as a port that is free here, by what the page has in its place.
        environment: Variables, for all commands.
        programs: Stand-ins for programs that cannot run here: scripts of sh, by name.
    """

    def __init__(
        self,
        directory: Path,
        texts: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        programs: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self.texts = dict(texts or {})
        self.environment = dict(environment or {})
        bin_path = directory / ".bin"
        bin_path.mkdir()
        ours = f'PYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.quote(sys.executable)} -m ra_gateway "$@"'
        for name, script in {"ra-gateway": ours, **(programs or {})}.items():
            path = bin_path / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        self.environment["PATH"] = f"{bin_path}:{os.environ['PATH']}"
        self.here = directory
        self._umask = "022"
        self._count = 0

    def text(self, printed: str) -> str:
        """Return a command with what is so on this machine."""
        for old, new in sorted(self.texts.items(), reverse=True):  # the longer of two first
            printed = printed.replace(old, new)
        return printed

    def run(self, printed: str) -> Ended:
        """Run a command to its end: what a shell would run one after the other, or with a pipe between."""
        line = re.sub(
            r"\$\(([^()]+)\)",
            lambda inner: self.succeeds(inner[1].strip()).rstrip("\n"),
            self.text(printed),
        )
        output, exit_code = "", 0
        for pipeline in split(line, "&&"):
            passed = b""
            for stage in split(pipeline, "|"):
                ended = self._stage(stage, passed)
                passed = ended.output.encode(errors="surrogateescape")
                exit_code = exit_code or ended.exit_code
            output += ended.output
            if exit_code:
                break
        return Ended(exit_code, output)

    def _stage(self, line: str, stdin: bytes) -> Ended:
        words = ours(line)
        if words is not None:
            with self._here(words) as arguments:
                result = CliRunner().invoke(app, arguments, input=stdin)
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            return Ended(result.exit_code, result.output)
        state = self.directory / ".bin" / "state"
        script = (
            f"set -o pipefail; umask {self._umask}\n{{ {line}\n}} || exit\n"
            f'{{ pwd; umask; }} > "{state}"'
        )
        done = subprocess.run(
            ["bash", "-uc", script],
            cwd=self.here,
            env=os.environ | self.environment,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        if done.returncode == 0:
            here, self._umask = state.read_text().splitlines()
            self.here = Path(here)
        return Ended(done.returncode, done.stdout.decode(errors="surrogateescape"))

    def succeeds(self, printed: str) -> str:
        """Run a command that has to succeed, and return what it wrote."""
        ended = self.run(printed)
        assert ended.exit_code == 0, f"{self.text(printed)}\n{ended.output}"
        return ended.output

    @contextmanager
    def serving(self, printed: str, until: str = "\nlistening on ") -> Iterator[Path]:
        """Run a command that serves until the end of the block, when SIGTERM has to end it well; yields its log.

        Args:
            until: What it writes once it serves.
        """
        words = ours(self.text(printed))
        assert words is not None, printed
        self._count += 1
        log = self.directory / ".bin" / f"output-{self._count}"
        with self._here(words) as arguments:
            command = Command(*arguments, output_path=log)
        try:
            await_text(log, until, lambda: command.poll() is None)
            yield log
            command.send_signal(15)
            assert command.wait() == 0, f"{printed}\n{log.read_text()}"
        finally:
            command.kill()

    @contextmanager
    def _here(self, words: list[str]) -> Iterator[list[str]]:
        """Be where a command is typed until the end of the block; yields its arguments."""
        before, cwd = dict(os.environ), Path.cwd()
        words = list(words)
        os.environ.update(self.environment)
        while "=" in words[0]:
            name, _, value = words.pop(0).partition("=")
            os.environ[name] = value
        os.chdir(self.here)
        try:
            yield words[1:]
        finally:
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(before)


def split(line: str, operator: str) -> list[str]:
    """Return what stands between the operators of a shell that are neither quoted nor in parentheses."""
    pattern = r"""("[^"]*"|'[^']*'|\([^)]*\)|<<[^\0]*)|\s""" + re.escape(operator) + r"\s"
    return re.sub(pattern, lambda found: found[1] or "\0", line).split("\0")


def ours(line: str) -> list[str] | None:
    """Return the words of a single command of ours, variables before it included; None if it needs a shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    if first_program(line) != "ra-gateway" or re.search(r"[$`]|<<", line):
        return None
    return None if any(set(word) <= set("&|;()<>") for word in words) else words


NOT_HERE: Final[Mapping[str, str]] = {
    r"make ": "builds, installs or tests this tree; test_docs compares the targets with the Makefile",
    r"pipx install |python3 -m venv /opt/|/opt/ra_gateway[-.\d]*/bin/pip |python3 -m pip wheel ": (
        "takes the package index; test_installed installs the same wheel, `make install-check` by pipx"
    ),
    r"(cd deploy/compose && )?docker ": "takes an engine; test_compose_site runs the site as processes",
    r"kubectl |helm ": "takes a cluster; `make deploy-check` has Helm and Kubernetes look at the chart",
    r"step |vault ": "takes a CA of another maker; test_rest_upstreams has its interface",
    r"\.venv/bin/python (docs/|-m tests\.bench\.)": (
        "writes into this tree, and a test compares what it would write; or measures for minutes"
    ),
    r"journalctl .*\| jq ": "takes jq, on which nothing else here depends",
    r"sudo apt-get ": "installs Debian packages; the Makefile does it where the tests may",
}
"""Commands that no test runs, by how they begin, and why."""


def runs_here(command: Printed) -> bool:
    """Tell whether a command can be run by tests."""
    return not any(re.match(pattern, command.text) for pattern in NOT_HERE)


def to_run(page: str, section: str | None = None) -> list[Printed]:
    """Return the commands of a page, or of one section of it, that can be run by tests."""
    return [command for command in on_page(page, section) if runs_here(command)]
