"""An openssl of the 3.5 series beside the machine's own: its `cmp` knows newer parts of RFC 9810.

    python -m tests.support.newer_openssl    # fetch it, unless it is there: what `make newer-openssl` runs

Where the machine's openssl is as new, that is it. Elsewhere the packages of Debian 13 are downloaded by apt, which
verifies them by Debian's signed index with sources of its own, and unpacked below `build/`: nothing is installed, and
their own loader and C library run them.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

OLDEST: Final = (3, 5)

ROOT: Final = Path(__file__).parents[2]
DIRECTORY: Final = ROOT / "build" / "openssl"
COMMAND: Final = DIRECTORY / "openssl"

_PACKAGES: Final = ("openssl", "libssl3t64", "libc6", "zlib1g", "libzstd1")
_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SOURCES: Final = f"""\
deb [signed-by={_KEYRING}] http://deb.debian.org/debian trixie main
deb [signed-by={_KEYRING}] http://deb.debian.org/debian-security trixie-security main
"""
_SECONDS: Final = 300.0


@cache
def newer_openssl() -> str:
    """Return the path of an openssl of the 3.5 series or newer; fetched if need be.

    Raises:
        AssertionError: It cannot be had; the text says why, and what to do.
    """
    own = shutil.which("openssl")
    if own is not None and openssl_version(own) >= OLDEST:
        return own
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    with (DIRECTORY / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A directory that was moved has the old place in it.
        if not COMMAND.exists() or str(DIRECTORY) not in COMMAND.read_text():
            _fetch()
    assert openssl_version(str(COMMAND)) >= OLDEST, f"{COMMAND} is older than 3.5; run: make clean"
    return str(COMMAND)


def openssl_version(command: str | None = None) -> tuple[int, ...]:
    """Return major and minor version of an openssl, by default the machine's; (0, 0) of what is none."""
    told = _run([command or "openssl", "version"])
    found = re.match(r"OpenSSL (\d+)\.(\d+)", told)
    return tuple(map(int, found.groups())) if found else (0, 0)


def _run(arguments: Sequence[str], directory: Path | None = None) -> str:
    try:
        done = subprocess.run(
            arguments,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _missing(f"{' '.join(arguments)}: {error}") from error
    if done.returncode != 0:
        raise _missing(f"{' '.join(arguments)}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _missing(why: str) -> AssertionError:
    return AssertionError(
        "the tests need OpenSSL 3.5 or newer beside the machine's own, and Debian 13's could not be had: that takes "
        f"apt-get, debian-archive-keyring and http://deb.debian.org. Or put a newer openssl into PATH.\n{why}"
    )


def _fetch() -> None:
    """Download and unpack the packages, and write what runs them; it appears as a whole."""
    if not _KEYRING.exists():
        raise _missing(f"{_KEYRING} is missing")
    apt, unpacked = DIRECTORY / "apt", DIRECTORY / "unpacked"
    for made in (apt, unpacked):
        shutil.rmtree(made, ignore_errors=True)
    for needed in ("lists/partial", "cache/archives/partial", "packages"):
        (apt / needed).mkdir(parents=True)
    (apt / "sources.list").write_text(_SOURCES)
    (apt / "status").write_text("")
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Acquire::AllowInsecureRepositories": "false",
        "APT::Get::AllowUnauthenticated": "false",
        # As root, apt would fetch as _apt, who may not write here.
        "APT::Sandbox::User": "root",
    }
    given = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
    _run(["apt-get", "-q", *given, "update", "--error-on=any"])
    _run(["apt-get", "-q", *given, "download", *_PACKAGES], apt / "packages")
    for package in sorted((apt / "packages").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(unpacked)])
    shutil.rmtree(apt)
    (loader,) = unpacked.glob("usr/lib/*/ld-linux-*.so.*")
    script = DIRECTORY / "openssl.new"
    script.write_text(
        "#!/bin/sh\n"
        f'exec "{loader}" --library-path "{loader.parent}" "{unpacked}/usr/bin/openssl" "$@"\n'
    )
    script.chmod(0o755)
    os.replace(script, COMMAND)


if __name__ == "__main__":
    try:
        path = newer_openssl()
    except AssertionError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{path}: OpenSSL {'.'.join(map(str, openssl_version(path)))}\n")
