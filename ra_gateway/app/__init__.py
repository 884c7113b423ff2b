"""The composition roots: from a configuration to running services; `app.ca` has those that need the extra `ca`."""

from ra_gateway.app.application import Application, transaction_store
from ra_gateway.app.running import (
    CannotListen,
    catch_signals,
    check,
    cmp_listener,
    now,
    run_until_signalled,
)
from ra_gateway.app.trust import operator_domain, vendor_domains
from ra_gateway.app.warnings import ca_warnings, of_file, warnings

__all__ = [
    "Application",
    "CannotListen",
    "ca_warnings",
    "catch_signals",
    "check",
    "cmp_listener",
    "now",
    "of_file",
    "operator_domain",
    "run_until_signalled",
    "transaction_store",
    "vendor_domains",
    "warnings",
]
