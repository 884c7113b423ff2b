"""The LDAP directory that the bundled CA's CRLs are published to: reached and looked into, nothing is written."""

from __future__ import annotations

import asyncio
from typing import Final

from ra_gateway import ldap
from ra_gateway.app.doctor.results import Check, Result
from ra_gateway.cmp.certificates import key_identifier
from ra_gateway.config.ca_tables import CAConfig
from ra_gateway.errors import ConfigError, printable
from ra_gateway.keys import load_certificates, read_password

_SECONDS: Final = 10.0


async def examine_directory(config: CAConfig) -> list[Result]:
    """Log in as the CA does, and look for the entry of its issuing CA, or the one above it."""
    if config.ldap is None:
        return []
    check = Check("LDAP directory", f"log in at {config.ldap.url}")
    try:
        issuing = load_certificates(config.directory_path / "issuing.pem", "ca.directory_path")[0]
        password = (read_password(config.ldap.bind_password_path) or b"").decode()
        issuer_id = issuing.subject_key_identifier or key_identifier(issuing.spki_der)
        dn = config.ldap.entry.replace("{issuer}", issuer_id.hex())
        directory = config.ldap.directory(password)
        missing = await asyncio.to_thread(directory.missing, dn, _SECONDS)
    except ConfigError as error:
        return check.problems(error)
    except (OSError, UnicodeDecodeError) as error:
        what = f"the password cannot be read: {error}"
        return [check.fault(what, "no CRL is published", "ca.ldap.bind_password_path")]
    except ldap.LDAPFailure as error:
        return [
            check.fault(
                printable(str(error), 300),
                "no CRL is published: who looks there finds the old one, or none",
                "ca.ldap.url, bind_dn, bind_password_path, start_tls and ca_path; the directory and the way there",
            )
        ]
    found = [check.ok("logged in")]
    look = Check("LDAP directory", f"look for {dn}")
    if not missing:
        return [*found, look.ok("it is there")]
    above = f"{missing} is not there"
    if missing == dn:
        return [*found, look.ok("not there yet; the entry above it is, and the CA makes it")]
    cause = "entries are made only where the one above them exists"
    return [*found, look.fault(above, cause, f"the directory: make {missing}; or ca.ldap.entry")]
