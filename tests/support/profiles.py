"""Profiles for tests that are about something else than what TS 33.310 6.1 asks of subject, names and keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ra_gateway.ca import profiles
from ra_gateway.ca.profiles import Profile, SubjectForm

CRL_URL: Final = "http://crl.example.net/{issuer}.crl"


def loose(profile: Profile) -> Profile:
    """Return a profile that any proper subject fits, with or without other names, and whatever the key."""
    return replace(
        profile,
        subject_form=SubjectForm.any,
        san_required=False,
        crl_required=False,
        stronger_keys=True,
    )


def with_crl(profile: Profile) -> Profile:
    """Return a profile as it is where the URL of the CRL is configured."""
    return replace(profile, crl_urls=(CRL_URL,))


ENODEB_IPSEC: Final = loose(profiles.ENODEB_IPSEC)
NE_IPSEC: Final = loose(profiles.NE_IPSEC)
NE_TLS: Final = loose(profiles.NE_TLS)
TLS_CLIENT: Final = loose(profiles.TLS_CLIENT)
TLS_SERVER: Final = loose(profiles.TLS_SERVER)
NF: Final = replace(profiles.NF, crl_required=False)
