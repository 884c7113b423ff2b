"""How TLS is spoken with a CA: whom to trust, and the client certificate to show, from files."""

from __future__ import annotations

import ssl
from pathlib import Path

from ra_gateway.errors import ConfigError, Problem
from ra_gateway.files import read_bounded


def tls_context(
    setting: str,
    *,
    ca_path: Path | None = None,
    certificate_path: Path | None = None,
    key_path: Path | None = None,
    key_password_path: Path | None = None,
) -> ssl.SSLContext:
    """Return a client's TLS context: TLS 1.2 or later, the server's certificate and name checked.

    Args:
        setting: Dotted path of the table that the settings `tls_...` are in, for errors.
        ca_path: PEM, the only roots that are trusted; by default those of the system.
        certificate_path: PEM, to be shown to the server, its chain after it; by default none.
        key_path: PEM, its private key; by default in the same file.
        key_password_path: Holds the password of an encrypted key in its first line.

    Raises:
        ConfigError: A file cannot be used. The text never contains key or password.
    """
    context = _trusting(setting, ca_path)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if certificate_path is not None:
        password = _password(setting, key_password_path)
        try:
            # Never without a password: OpenSSL would ask the terminal for one.
            context.load_cert_chain(certificate_path, key_path, password)
        except (OSError, ValueError) as error:
            raise _unusable(
                f"{setting}.tls_certificate_path",
                f"certificate and key cannot be used: {openssl_reason(error)}",
                "Give PEM files of a certificate and the key that belongs to it, and the key's "
                "password file if it is encrypted",
            ) from error
    return context


def _trusting(setting: str, ca_path: Path | None) -> ssl.SSLContext:
    # Not `create_default_context`: that one lets the environment have session keys written to a file.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if ca_path is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca_path)
        return context
    except (OSError, ValueError) as error:
        raise _unusable(
            f"{setting}.tls_ca_path",
            f"no CA certificates can be read from {ca_path}: {openssl_reason(error)}",
            "Give a PEM file with the roots of the server's certificate",
        ) from error


def _password(setting: str, path: Path | None) -> bytes:
    if path is None:
        return b""
    try:
        return read_bounded(path).split(b"\n", 1)[0].rstrip(b"\r")
    except OSError as error:
        raise _unusable(
            f"{setting}.tls_key_password_path",
            f"no password can be read from {path}: {error.strerror}",
            "Give a file with the password in its first line",
        ) from error


def openssl_reason(error: OSError | ValueError) -> str:
    """Return a phrase for the operator; OpenSSL's own texts repeat nothing from the files."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM, or a wrong password").replace("_", " ").lower()
    return (isinstance(error, OSError) and error.strerror) or "not usable"


def _unusable(path: str, what: str, todo: str) -> ConfigError:
    return ConfigError([Problem(path, what, todo)])
