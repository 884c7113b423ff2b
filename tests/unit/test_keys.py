"""Key files and what may be in them: a key, or one line that names a key in an HSM."""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from ra_gateway import keys, pkcs11
from ra_gateway.cmp.algorithms import verify_signature
from ra_gateway.errors import ConfigError, Problem

MODULE = "module-path=/opt/hsm/lib.so"
URI = f"pkcs11:token=ra;object=issuing?{MODULE}&pin-source=file:pin"


def read(uri: str) -> pkcs11.Reference:
    return pkcs11.read_reference(uri, Path("/etc/ra"), "ra.key_path")


def problem(call: Any, *arguments: Any, **named: Any) -> Problem:
    """Return the one problem of a ConfigError that a call must raise."""
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **named)
    [found] = caught.value.problems
    return found


# --- The name of a key in an HSM ------------------------------------------------------------------


def test_a_uri_is_taken_apart() -> None:
    """Every attribute has its place, % is undone, and the PIN file is beside the key file."""
    uri = f"pkcs11:token=RA%20%C3%BC;serial=0a1b;object=a%3Bb%2F;id=%01%ff;type=private?{MODULE}&pin-source=file:pin"
    assert read(uri) == pkcs11.Reference(
        token="RA ü",
        serial="0a1b",
        object="a;b/",
        id=b"\x01\xff",
        module_path=Path("/opt/hsm/lib.so"),
        pin_path=Path("/etc/ra/pin"),
    )


@pytest.mark.parametrize("source", ["file:/run/pin", "file:///run/pin", "file:%2Frun/pin"])
def test_a_pin_file_may_be_anywhere(source: str) -> None:
    """Both spellings of an absolute file URI are the same file."""
    found = read(f"pkcs11:token=ra;id=%01?pin-source={source}&{MODULE}")
    assert (found.pin_path, found.object) == (Path("/run/pin"), None)


def test_a_token_may_have_no_pin() -> None:
    """Without pin-source nobody logs in."""
    assert read(f"pkcs11:serial=7;object=k?{MODULE}").pin_path is None


@pytest.mark.parametrize(
    "uri, what",
    [
        ("", "begins with pkcs11:"),
        ("PKCS11:token=ra", "begins with pkcs11:"),
        (URI + "a" * 4096, "begins with pkcs11:"),
        ("pkcs11:", "names no token"),
        (f"pkcs11:object=k?{MODULE}", "names no token"),
        (f"pkcs11:token=ra?{MODULE}", "names no key"),
        ("pkcs11:token=ra;object=k", "names no PKCS#11 library"),
        ("pkcs11:token=ra;object=k?", "names no PKCS#11 library"),
        ("pkcs11:token=ra;object=k?module-path=lib.so", "module-path is not absolute"),
        (f"pkcs11:token=ra;object=k;type=public?{MODULE}", "something else than a private key"),
        (f"pkcs11:token=ra;token=ra;object=k?{MODULE}", "token twice"),
        (f"pkcs11:token=ra;object=k?{MODULE}&{MODULE}", "module-path twice"),
        (f"pkcs11:token=ra;object=k;slot-id=1?{MODULE}", "none of: token, serial, object"),
        (f"pkcs11:token=ra;object=k?{MODULE}&module-name=x", "none of: module-path, pin-source"),
        (f"pkcs11:token=ra;object=k;{MODULE}", "none of: token, serial, object"),
        (f"pkcs11:token=ra;object=k;?{MODULE}", "none of: token, serial, object"),
        (f"pkcs11:token=;object=k?{MODULE}", "value of token"),
        (f"pkcs11:token=ra;object=a b?{MODULE}", "value of object"),
        (f"pkcs11:token=ra;object=a/b?{MODULE}", "value of object"),
        (f"pkcs11:token=ra;object=a%2?{MODULE}", "value of object"),
        (f"pkcs11:token=ra;object=ä?{MODULE}", "value of object"),
        (f"pkcs11:token=ra;object=%ff?{MODULE}", "not printable text"),
        (f"pkcs11:token=ra;object=%00?{MODULE}", "not printable text"),
        (f"pkcs11:token=ra;object=k?{MODULE}%0a", "not printable text"),
        (f"{URI}\n{URI}", "value of pin-source"),
        (f"pkcs11:token=ra;object=k?{MODULE}&pin-source=/etc/pin", "does not name a file"),
        (f"pkcs11:token=ra;object=k?{MODULE}&pin-source=|cat%20pin", "does not name a file"),
    ],
)
def test_what_is_no_name_of_a_key(uri: str, what: str) -> None:
    """Each mistake is told, with the setting and a remedy."""
    found = problem(read, uri)
    assert found.path == "ra.key_path"
    assert what in found.what
    assert found.todo


@pytest.mark.parametrize(
    "uri",
    [
        f"{URI}&pin-value=4711",
        f"pkcs11:token=ra;object=k;pin-value=4711?{MODULE}",
        f"pkcs11:token=ra;object=k?{MODULE}&pin=4711",
        f"pkcs11:token=ra;object=k?{MODULE}&4711",
        f"pkcs11:token=ra;object=k?{MODULE}&pin-source=47 11",
    ],
)
def test_a_pin_in_the_uri_is_refused_and_not_repeated(uri: str) -> None:
    """Secrets are in files of their own, and in no text of ours."""
    text = str(problem(read, uri))
    assert "4711" not in text
    assert "47 11" not in text


# --- The PIN file ---------------------------------------------------------------------------------


def load_with_pin(directory: Path, octets: bytes | None, mode: int = 0o600) -> Problem:
    """Load a key whose PIN file has this content, None for no file; the library does not exist."""
    if octets is not None:
        (directory / "pin").write_bytes(octets)
        (directory / "pin").chmod(mode)
    (directory / "key").write_text(URI + "\n")
    return problem(keys.load_private_key, directory / "key", None, "ra.key_path")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o777])
def test_a_pin_file_that_others_can_open(tmp_path: Path, mode: int) -> None:
    """Group and others may neither read nor write it."""
    found = load_with_pin(tmp_path, b"4711\n", mode)
    assert found == Problem(
        "ra.key_path",
        f"others than its owner may read the PIN file {tmp_path / 'pin'}",
        f"Run: chmod 600 {tmp_path / 'pin'}",
    )


def test_no_pin_file(tmp_path: Path) -> None:
    """The error names the file."""
    found = load_with_pin(tmp_path, None)
    assert (
        found.what == f"the PIN cannot be read from {tmp_path / 'pin'}: No such file or directory"
    )


@pytest.mark.parametrize("octets", [b"", b"\n", b"47\n11\n", b"\xff\xfe", b"1" * 2000])
def test_what_is_no_pin(tmp_path: Path, octets: bytes) -> None:
    """One line of text, and not endless."""
    assert (
        load_with_pin(tmp_path, octets).what == f"the file {tmp_path / 'pin'} does not hold a PIN"
    )


@pytest.mark.parametrize("octets", [b"4711", b"4711\n", b"4711\r\n"])
def test_with_a_pin_it_goes_on_to_the_library(tmp_path: Path, octets: bytes) -> None:
    """A line may end as it likes; here it is the library that is missing."""
    assert load_with_pin(tmp_path, octets).what == "there is no PKCS#11 library /opt/hsm/lib.so"


# --- Key files ------------------------------------------------------------------------------------


def test_a_reference_is_one_line_that_only_its_owner_can_read(tmp_path: Path) -> None:
    """It is made with its directory."""
    path = tmp_path / "ca" / "issuing.key"
    keys.write_key_reference(path, URI)
    assert path.read_text() == URI + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_reference_overwrites_nothing(tmp_path: Path) -> None:
    """Whatever is in the file stays."""
    path = tmp_path / "key"
    path.write_text("something")
    with pytest.raises(FileExistsError):
        keys.write_key_reference(path, URI)
    with pytest.raises(FileExistsError):
        keys.new_key(path, "p256", password=None, uri=URI)
    assert path.read_text() == "something"


def test_a_wrong_reference_is_not_written(tmp_path: Path) -> None:
    """What could not be loaded is refused at once."""
    path = tmp_path / "key"
    assert problem(keys.write_key_reference, path, "pkcs11:token=ra").path == str(path)
    assert not path.exists()


def test_a_file_that_is_neither_key_nor_reference(tmp_path: Path) -> None:
    """The error says what could be in it, and not what is."""
    path = tmp_path / "key"
    path.write_bytes(b"\xffsecret")
    found = problem(keys.load_private_key, path, None, "ra.key_path")
    assert found.what == f"no private key can be read from {path}: not a PEM key, or wrong password"
    assert "pkcs11:" in found.todo
    path.write_bytes(f"pkcs11:token=ra;object=\xff?{MODULE}".encode("latin-1"))
    assert "value of object" in problem(keys.load_private_key, path, None, "ra.key_path").what


def test_a_new_key_is_in_its_file(tmp_path: Path) -> None:
    """Encrypted, readable for its owner, and the key that was returned."""
    path = tmp_path / "ca" / "key"
    made = keys.new_key(path, "p384", password=b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.spki_der(load_pem_private_key(path.read_bytes(), b"secret")) == keys.spki_der(made)
    assert not keys.signs_elsewhere(made)


def test_a_new_key_of_no_kind(tmp_path: Path) -> None:
    """The kinds there are, are told."""
    found = problem(keys.new_key, tmp_path / "key", "p257", password=None)
    assert "p256" in found.todo


# --- Signing --------------------------------------------------------------------------------------


class Watched:
    """A key that notes in which threads it signs."""

    def __init__(self, key: Any) -> None:
        self._key = key
        self.threads: list[str] = []

    def sign(self, *arguments: Any) -> bytes:
        self.threads.append(threading.current_thread().name.partition("_")[0])
        return bytes(self._key.sign(*arguments))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._key, name)


@pytest.mark.parametrize("kind", sorted({*keys.KEY_KINDS} - {"rsa4096"}))
async def test_a_key_in_memory_signs(kind: str) -> None:
    """In the event loop where that is quick; what is dear, or much to hash, in a thread."""
    key = Watched(keys.KEY_KINDS[kind]())
    signer = keys.KeySigner(key)
    for octets in (b"octets", b"octets" * 100_000):
        signature = await signer.sign(octets)
        verify_signature(signer.algorithm, key.public_key(), signature, octets)
    is_dear = kind in ("rsa3072", "mldsa44", "mldsa65", "mldsa87")
    assert key.threads == ["sign" if is_dear else "MainThread", "sign"]


def test_a_file_without_an_end_is_not_read_whole(tmp_path: Path) -> None:
    """Certificates and keys have some kilobytes."""
    with pytest.raises(ConfigError, match="no certificate can be read"):
        keys.load_certificates(Path("/dev/zero"), "x")
    with pytest.raises(ConfigError, match="no private key can be read"):
        keys.load_private_key(Path("/dev/zero"), None, "x")
    (tmp_path / "many.pem").write_text("-----BEGIN CERTIFICATE-----\n" * 100_000)
    with pytest.raises(ConfigError, match="no certificate can be read"):
        keys.load_certificates(tmp_path / "many.pem", "x")
