"""From a wheel to a certificate in four commands: install, init, serve, and an enrolment by openssl.

The short form takes the libraries of the tests. `make install-check` runs the same with pipx and an empty environment:
every library comes from the package index, as the extra `ca` asks for it.
"""

from __future__ import annotations

import os
import resource
import site
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.support.openssl import load_certificate, openssl_cmp
from tests.support.patience import PATIENCE_SECONDS
from tests.support.pki import VendorPKI
from tests.support.ports import free_port

ROOT: Final = Path(__file__).parents[2]
CPU_SECONDS: Final = 60.0
FROM_INDEX: Final = bool(os.environ.get("INSTALL_FROM_INDEX"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def pipx(tmp_path: Path) -> list[str | Path]:
    """What installs: pipx, as an administrator has it already; in the short form pip, without libraries."""
    target = tmp_path / "tool"
    venv.create(target, with_pip=FROM_INDEX)
    if FROM_INDEX:
        run(target / "bin/python", "-m", "pip", "install", "--quiet", "pipx")
        return [target / "bin/pipx", "install"]
    # The directories of the libraries alone: the tests' own installation of this project is not found by them.
    (libraries,) = target.glob("lib/python*/site-packages")
    (libraries / "tests.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return [
        sys.executable, "-m", "pip", "--python", target / "bin/python", "install", "--no-deps",
    ]  # fmt: skip


def environment(directory: Path) -> dict[str, str]:
    """Return what a shell has, and where pipx puts things."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "RA_GATEWAY", "COVERAGE", "VIRTUAL_ENV"))
    }
    return kept | {
        "PIPX_HOME": str(directory / "pipx"),
        "PIPX_BIN_DIR": str(directory / "tool/bin"),
        "PIPX_MAN_DIR": str(directory / "man"),
    }


def run(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command that succeeds; returns its output."""
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def cpu_seconds() -> float:
    """Return the time that ended children took, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def serving(
    program: Path, config: Path, port: int, env: dict[str, str], log: Path
) -> Iterator[None]:
    """Run `serve` until it says that it has started, and to its end."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "serve", "--config", config],
            env=env, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while f"127.0.0.1:{port}" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < give_up_at, log.read_text()
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()
    assert process.returncode == 0, log.read_text()


def test_four_commands_from_the_wheel_to_a_certificate(
    wheel: Path, pipx: list[str | Path], tmp_path: Path, vendor_pki: VendorPKI
) -> None:
    """Each succeeds, and all of them take less than a minute of a processor."""
    vendor_pki.write(tmp_path)
    device = vendor_pki.device("SN-000007")
    device.write(tmp_path, "device")
    port, status = free_port(), free_port()
    env = environment(tmp_path)
    program = tmp_path / "tool/bin/ra-gateway"
    before = cpu_seconds()

    run(*pipx, f"{wheel}[ca]", cwd=tmp_path, env=env)
    run(
        program, "init", "site", "--vendor", "acme=root.pem,sub.pem", "--port", str(port),
        "--status-port", str(status), cwd=tmp_path, env=env,
    )  # fmt: skip
    with serving(program, tmp_path / "site/gateway.toml", port, env, tmp_path / "log"):
        result = openssl_cmp(
            "ir",
            server=f"127.0.0.1:{port}",
            cert=tmp_path / "device.pem",
            key=tmp_path / "device.key",
            extracerts=tmp_path / "sub.pem",
            trusted=tmp_path / "site/operator/root.pem",
            subject="/O=Example Operator/CN=SN-000007.ran.example.net",
            certout=tmp_path / "new.pem",
            extra_args=("-sans", "SN-000007.ran.example.net"),
        )
        assert result.returncode == 0, result.output + (tmp_path / "log").read_text()
    took = cpu_seconds() - before

    subject = load_certificate(tmp_path / "new.pem").subject.rfc4514_string()
    assert subject == "CN=SN-000007.ran.example.net,O=Example Operator"
    assert took < CPU_SECONDS, f"{took:.0f} s of CPU"
    samples = Path(run(program, "samples", cwd=tmp_path, env=env).strip())
    assert samples.is_relative_to(tmp_path), "the program that ran is the installed one"
    assert (samples / "deploy/ra-gateway@.service").is_file()
