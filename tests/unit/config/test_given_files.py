"""Files as editors, vendors and other tools leave them: a byte order mark, DER for PEM, a secret that is not there."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ra_gateway.config.reading import load, parse
from ra_gateway.errors import ConfigError, Problem
from ra_gateway.keys import load_certificates, load_private_key
from tests.support.configurations import TABLES, written
from tests.support.pki import make_root, write_certificates, write_key


def problem(call: Callable[[], object]) -> Problem:
    """The one problem that a call has."""
    with pytest.raises(ConfigError) as caught:
        call()
    (found,) = caught.value.problems
    return found


def test_a_configuration_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Windows' editors write one; UTF-16 is another thing, and told."""
    path = tmp_path / "gateway.toml"
    path.write_text(written(), encoding="utf-8-sig")
    assert load(path, check_files=False).upstreams.keys() == {"main"}
    path.write_text(written(), encoding="utf-16")
    assert "it seems to be UTF-16" in problem(lambda: load(path)).what


FORMS: dict[str, tuple[tuple[str, ...], str]] = {
    "DER": (("x509", "-outform", "DER", "-in"), "a certificate in DER"),
    "PKCS#7": (("crl2pkcs7", "-nocrl", "-certfile"), "PKCS#7"),
    "PKCS#7 in DER": (("crl2pkcs7", "-nocrl", "-outform", "DER", "-certfile"), "PKCS#7 in DER"),
    "PKCS#12": (("pkcs12", "-export", "-nokeys", "-passout", "pass:", "-in"), "PKCS#12"),
    "openssl's own": (("x509", "-trustout", "-in"), "in openssl's own form"),
}


@pytest.mark.parametrize("form", FORMS)
def test_certificates_in_another_form_are_named_with_the_command_that_helps(
    tmp_path: Path, form: str
) -> None:
    """The command is run as it was printed, and the file that it makes is read."""
    arguments, seems = FORMS[form]
    root = make_root("CN=Root").certificate
    pem = write_certificates(tmp_path / "root.pem", root)
    given = tmp_path / "given file"
    command = ["openssl", *arguments, str(pem)]
    given.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    found = problem(lambda: load_certificates(given, "setting"))
    assert f"there is none in PEM; it is {seems}" in found.what
    run = found.todo.removeprefix("Run: ").partition(", and name ")[0]
    quiet = run.replace("pkcs12", "pkcs12 -passin pass:")
    subprocess.run(shlex.split(quiet), check=True, capture_output=True)
    (loaded,) = load_certificates(Path(f"{given}.pem"), "setting")
    assert loaded.subject == "CN=Root"


@pytest.mark.parametrize("form", ["PKCS8", "traditional"])
def test_a_key_in_der_is_told(tmp_path: Path, form: str) -> None:
    key = make_root("CN=Root").private_key
    pem = write_key(tmp_path / "root.key", key)
    how = ["-traditional"] if form == "traditional" else []
    command = ["openssl", "pkey", *how, "-outform", "DER", "-in", str(pem)]
    given = tmp_path / "der.key"
    given.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    found = problem(lambda: load_private_key(given, None, "setting"))
    assert "not a PEM key; it is a key in DER" in found.what
    run = found.todo.removeprefix("Run: ").partition(", and name ")[0]
    subprocess.run(shlex.split(run), check=True, capture_output=True)
    loaded = load_private_key(Path(f"{given}.pem"), None, "setting")
    assert loaded.public_key() == key.public_key()


def test_key_and_certificate_in_each_others_place_are_told(tmp_path: Path) -> None:
    root = make_root("CN=Root")
    pem = write_certificates(tmp_path / "root.pem", root.certificate)
    key = write_key(tmp_path / "root.key", root.private_key)
    assert "it is a private key" in problem(lambda: load_certificates(key, "setting")).what
    assert "it is a certificate" in problem(lambda: load_private_key(pem, None, "setting")).what


@pytest.mark.parametrize(
    "name, shown",
    [
        ("ra.key", True),
        ("keys/url", True),
        ("correct-horse-battery-staple", False),
        ("nowhere/horse", False),
        ("/horse", False),
        ("redis://:horse@127.0.0.1:6379/0", False),
        ("redis://:horse@127.0.0.1/ra.key", False),
        ("cor/horse/staple+=", False),
    ],
)
def test_a_secret_that_is_not_there_is_named_unless_it_may_be_the_secret(
    tmp_path: Path, name: str, shown: bool
) -> None:
    """A name that only a file has, or that leads into a directory that exists, is no secret."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "ra.keys").touch(0o600)
    for file in ("ra.pem", "root.pem", "acme.pem"):
        (tmp_path / file).write_text("x")
    text = written(ra=TABLES["ra"].replace("ra.key", name))
    found = problem(lambda: parse(text, directory=tmp_path))
    assert found.path == "ra.key_path"
    assert (str(tmp_path / name) in found.what) is shown
    assert ("horse" in f"{found.what}{found.todo}") is False
    assert ('Did you mean "ra.keys"?' in found.todo) is (name == "ra.key")
