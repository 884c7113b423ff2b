"""RA-mode gateway between base stations and a certification authority (CMPv2, 3GPP TS 33.310)."""

import os

__version__ = "0.2.0"

# Libraries make TLS contexts of their own (aiohttp does so when it is imported), and would write the keys of all
# sessions to the file that this variable names.
os.environ.pop("SSLKEYLOGFILE", None)
