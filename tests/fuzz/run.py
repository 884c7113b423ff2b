"""Coverage-guided fuzzing: `python -m tests.fuzz.run --inputs N --seed S`.

A child process does the fuzzing, since libFuzzer ends the process it runs in; this one starts it, passes on what it
says, and prints a report. What the child needs beyond the product is atheris: `pip install -e '.[test,fuzz]'`.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"
VECTORS: Final = Path(__file__).parents[1] / "vectors"
_LARGEST_OCTETS: Final = 2500
"""Of what is kept in the tree: larger inputs are variations of smaller ones."""

FINDING: Final = 1
"""Exit status when the invariant does not hold."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run showed.

    Args:
        inputs: How many were tried, those of the corpus included.
        edges, features: Of libFuzzer: places in the code, and places with how often.
        corpus, corpus_octets: Inputs that each reach something of their own.
        findings: Files with inputs for which the invariant does not hold.
    """

    seed: int
    inputs: int
    seconds: float
    edges: int
    features: int
    corpus: int
    corpus_octets: int
    findings: tuple[str, ...]

    def __str__(self) -> str:
        rows = (
            ("date", f"{datetime.now(UTC):%Y-%m-%d}"),
            ("seed", f"{self.seed}"),
            ("inputs", f"{self.inputs:,}"),
            ("duration", f"{self.seconds:,.0f} s ({self.inputs / self.seconds:,.0f} inputs/s)"),
            ("coverage", f"{self.edges:,} edges, {self.features:,} features"),
            ("corpus", f"{self.corpus:,} inputs, {self.corpus_octets:,} octets"),
            ("findings", f"{len(self.findings)}{' '.join(('', *self.findings))}"),
        )
        return "\n".join(f"| {name} | {value} |" for name, value in rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fuzz and report; return what the process is to exit with."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many to try")
    parser.add_argument("--seed", type=int, default=1, help="of the random choices")
    parser.add_argument(
        "--corpus", type=Path, help="where new inputs go; a scratch folder if absent"
    )
    parser.add_argument("--findings", type=Path, default=Path(), help="where findings go")
    parser.add_argument(
        "--minimise", action="store_true", help="then reduce tests/fuzz/corpus to what counts"
    )
    options = parser.parse_args(arguments)
    try:
        import atheris  # noqa: F401 - only whether it is there: the child is who uses it
    except ImportError as error:
        print(
            f"error: the fuzzer needs atheris: pip install -e '.[test,fuzz]' ({error})",
            file=sys.stderr,
        )
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        corpus = options.corpus or Path(scratch)
        corpus.mkdir(parents=True, exist_ok=True)
        report = fuzz(options.inputs, options.seed, corpus, options.findings)
        print(report)
        if options.minimise and not report.findings:
            minimise(corpus)
    return FINDING if report.findings else 0


def fuzz(inputs: int, seed: int, corpus: Path, findings: Path) -> Report:
    """Run the fuzzer over what is known and what it finds out.

    Args:
        corpus: New inputs that reach something go here; vectors and the corpus of the tree are read only.
        findings: Inputs for which the invariant does not hold go here.
    """
    before = time.monotonic()
    with _vectors() as vectors:
        log = _child(
            f"-runs={inputs}",
            f"-seed={seed}",
            "-max_len=65536",
            "-timeout=30",
            "-print_final_stats=1",
            f"-artifact_prefix={findings.resolve()}/finding-",
            *map(str, (corpus, CORPUS, vectors)),
        )
    return read_report(log, seed, time.monotonic() - before)


@contextmanager
def _vectors() -> Iterator[Path]:
    """The vectors in a folder of their own: libFuzzer would read everything else beside them too."""
    with tempfile.TemporaryDirectory() as name:
        for path in VECTORS.glob("*.der"):
            shutil.copy(path, name)
        yield Path(name)


def minimise(*sources: Path) -> None:
    """Keep in the tree's corpus what reaches more than the vectors do, and is small."""
    with tempfile.TemporaryDirectory() as scratch, _vectors() as vectors:
        # What is merged into a folder is only what the folder's own content does not reach.
        known, merged = {path.name for path in vectors.iterdir()}, Path(scratch) / "merged"
        shutil.copytree(vectors, merged)
        _child("-merge=1", f"-max_len={_LARGEST_OCTETS}", *map(str, (merged, CORPUS, *sources)))
        kept = {path.name: path.read_bytes() for path in merged.iterdir() if path.name not in known}
    for path in CORPUS.glob("*"):
        path.unlink()
    for name, octets in kept.items():
        (CORPUS / name).write_bytes(octets)


def _child(*arguments: str) -> str:
    """Run libFuzzer and return its log, which is passed on as it comes."""
    command = [sys.executable, "-m", "tests.fuzz.child"]
    lines = []
    with tempfile.TemporaryDirectory() as scratch:  # libFuzzer ends its process without tidying up
        again = Path(scratch, "again")
        again.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        again.chmod(0o700)
        with subprocess.Popen(
            [*command, *arguments],
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env={**os.environ, "TMPDIR": scratch, "FUZZ_AGAIN": str(again)},
        ) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if _worth_showing(line):
                    sys.stderr.write(line)
                lines.append(line)
    log = "".join(lines)
    if process.returncode and "Test unit written to" not in log:
        raise SystemExit(
            f"error: the fuzzer ended with {process.returncode} for another reason than a finding"
        )
    return log


def _worth_showing(line: str) -> bool:
    """Tell whether a line of libFuzzer's is not just about one more input."""
    if line.startswith("#"):
        return "DONE" in line or "pulse" in line
    return not line.startswith(("INFO: Instrumenting", "MERGE-INNER"))


def read_report(log: str, seed: int, seconds: float) -> Report:
    """Return the report of a run from libFuzzer's log."""
    progress = re.findall(
        r"^#(\d+)\s.*cov: (\d+) ft: (\d+) corp: (\d+)/(\d+)(Kb|Mb|b)", log, re.MULTILINE
    )
    inputs, edges, features, corpus, size, unit = progress[-1] if progress else ("0",) * 5 + ("b",)
    done = re.search(r"number_of_executed_units: (\d+)", log)
    scale = {"b": 1, "Kb": 1024, "Mb": 1024**2}[unit]
    return Report(
        seed=seed,
        inputs=int(done[1] if done else inputs),
        seconds=seconds,
        edges=int(edges),
        features=int(features),
        corpus=int(corpus),
        corpus_octets=int(size) * scale,
        findings=tuple(re.findall(r"Test unit written to (\S+)", log)),
    )


if __name__ == "__main__":
    sys.exit(main())
