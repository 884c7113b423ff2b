"""The text of a configuration that is valid, with tables to replace."""

from __future__ import annotations

TABLES = {
    "server": "[server]",
    "store": "[store]",
    "ra": '[ra]\ncertificate_path = "ra.pem"\nkey_path = "ra.key"',
    "operator": '[operator]\nanchors_paths = ["root.pem"]',
    "vendor": '[vendors.acme]\nanchors_paths = ["acme.pem"]',
    "identity": '[vendors.acme.identity]\nallowed_subjects = ["CN=*"]',
    "upstream": '[upstreams.main]\nkind = "cmp_http"\nurl = "http://ca.example.net/cmp"',
    "endpoint": (
        '[endpoints.ran]\npaths = ["/.well-known/cmp"]\nvendors = ["acme"]\nupstream = "main"'
    ),
}


def written(more: str = "", **replaced: str) -> str:
    """Return a valid configuration, with some tables replaced and something added."""
    return "\n".join([*(TABLES | replaced).values(), more])
