"""The URL of the ledger's database: what it says, how TLS is spoken, and that no error repeats any of it."""

from __future__ import annotations

import ssl
import traceback
from pathlib import Path
from typing import Final

import pytest

from ra_gateway.ca.ledger.ledger import open_ledger
from ra_gateway.errors import ConfigError
from ra_gateway.postgres_url import UnusableURL, parse_postgres_url

SECRET: Final = "Kn0bl4uch"

LOCAL: Final = (
    "postgresql:///ledger",
    "postgresql://ca@localhost/ledger",
    "postgresql://ca@127.0.0.1:5433/ledger",
    "postgresql://ca@127.9.9.9/ledger",
    "postgresql://ca@[::1]:5433/ledger",
    "postgresql://ca@/ledger?host=/run/postgresql",
    "postgresql://ca@%2Frun%2Fpostgresql/ledger",
)
REMOTE: Final = (
    "postgresql://ca@db.example.net/ledger",
    "postgresql://ca@192.0.2.7:5432/ledger",
    "postgresql://ca@[2001:db8::1]/ledger",
    "postgresql://ca@localhost,db.example.net/ledger",
    "postgresql://ca@/ledger?host=db.example.net",
    "postgresql://ca@127.0.0.1.example.net/ledger",
    "postgresql://ca@localhost.example.net/ledger",
)

UNUSABLE: Final = (
    f"postgresql://ca:{SECRET}/x@db.example.net/ledger",
    f"postgresql://ca:x/{SECRET}@db.example.net/ledger",
    f"postgresql://ca:{SECRET}#x@db.example.net/ledger",
    f"postgresql://ca:x#{SECRET}@db.example.net/ledger",
    f"postgresql://ca:x?{SECRET}@db.example.net/ledger",
    f"postgresql://ca:{SECRET}?x=1@db.example.net/ledger",
    f"postgresql://ca:{SECRET}@x@db.example.net/ledger",
    f"postgresql://ca:[{SECRET}@db.example.net/ledger",
    f"postgresql://ca:%zz{SECRET}@db.example.net/ledger",
    f"postgresql://ca:%ff{SECRET}@db.example.net/ledger",
    f"postgresql://ca:{SECRET} x@db.example.net/ledger",
    f"postgresql://ca@db.example.net:{SECRET}/ledger",
    f"postgresql://ca@db.example.net:99999999999{SECRET}/ledger",
    f"postgresql://ca@db.example.net/ledger?{SECRET}=1",
    f"postgresql://ca@db.example.net/ledger?sslmode={SECRET}",
    f"postgresql://ca@db.example.net/ledger?password={SECRET}&password=x",
    f"postgresql://ca:{SECRET}@db.example.net/ledger/more",
    f"postgresql://ca:{SECRET}@db.example.net/ledger?sslmode=prefer",
    f"postgresql://ca:{SECRET}@db.example.net/ledger?sslmode=allow",
    f"mysql://ca:{SECRET}@db.example.net/ledger",
    f"ca:{SECRET}@db.example.net",
    f"postgresql://ca:{SECRET}@/ledger\nx",
)


@pytest.mark.parametrize("text", LOCAL)
def test_this_machine_is_spoken_to_without_tls(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody stands in between."""
    monkeypatch.delenv("PGHOST", raising=False)
    url = parse_postgres_url(text)
    assert (url.tls, url.tls_context(), url.weakness) == ("disable", None, "")


@pytest.mark.parametrize("text", REMOTE)
def test_another_machine_has_to_prove_its_name(text: str) -> None:
    """Without a word in the URL its certificate and its name are checked."""
    url = parse_postgres_url(text)
    context = url.tls_context()
    assert context is not None
    assert (url.tls, url.weakness) == ("verify-full", "")
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_the_environment_does_not_make_a_remote_host_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """PGHOST counts as if it stood in the URL."""
    monkeypatch.setenv("PGHOST", "db.example.net")
    assert parse_postgres_url("postgresql:///ledger").tls == "verify-full"


@pytest.mark.parametrize("mode", ["disable", "require", "verify-ca"])
def test_a_weaker_mode_is_told_of(mode: str) -> None:
    """It is taken from those who ask for it, and what it leaves open is said."""
    assert parse_postgres_url(f"postgresql://ca@db.example.net/l?sslmode={mode}").weakness


def test_keys_of_sessions_go_into_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSLKEYLOGFILE of the environment is not heeded."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    for text in ("", "?sslmode=require", "?sslmode=verify-ca"):
        context = parse_postgres_url(f"postgresql://ca@db.example.net/l{text}").tls_context()
        assert context is not None
        assert context.keylog_filename is None
    assert not (tmp_path / "keys").exists()


def test_what_is_encoded_is_decoded() -> None:
    """A password may have any characters."""
    url = parse_postgres_url("postgresql://c%40a:p%2F%23%3F%40%25@db.example.net:5433/led%20ger")
    assert (url.user, url.password, url.database) == ("c@a", "p/#?@%", "led ger")
    assert (url.hosts, url.ports) == (("db.example.net",), (5433,))
    assert "p/#" not in repr(url)


@pytest.mark.parametrize("text", UNUSABLE)
def test_what_cannot_be_read_is_refused_without_repeating_it(text: str) -> None:
    """Neither the sentence nor the whole traceback, with what it came from, has anything of the password."""
    for attempt in (parse_postgres_url, open_ledger):
        with pytest.raises((UnusableURL, ConfigError)) as failure:
            attempt(text)
        error: BaseException | None = failure.value
        said = "".join(traceback.format_exception(failure.value))
        assert SECRET not in said
        while error is not None:
            assert SECRET not in repr(error)
            error = error.__context__


def test_files_it_names_have_to_be_usable(tmp_path: Path) -> None:
    """A root that is missing is told by its name."""
    url = parse_postgres_url(f"postgresql://ca@db.example.net/l?sslrootcert={tmp_path}/root.pem")
    with pytest.raises(UnusableURL, match=r"root\.pem"):
        url.tls_context()
