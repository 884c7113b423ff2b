"""RA-mode gateway between base stations and a certification authority (CMPv2, 3GPP TS 33.310)."""

__version__ = "0.1.0"
