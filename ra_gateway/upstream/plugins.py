"""CAs that somebody else's package knows how to speak to, found by entry point."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import entry_points
from typing import Final, cast

from ra_gateway.errors import ConfigError, Problem
from ra_gateway.ra.ports import CACore
from ra_gateway.upstream.signing import CertificateSigner

GROUP: Final = "ra_gateway.upstreams"
"""Entry points in this group name a function `make(settings, context)`."""


@dataclass(frozen=True, slots=True)
class UpstreamContext:
    """What the gateway tells whoever opens an upstream, besides the settings.

    Args:
        name: Of the upstream in the configuration.
        setting: Dotted path of the settings, for the `Problem`s that are found in them.
        clock: Aware UTC.
    """

    name: str
    setting: str
    clock: Callable[[], datetime]


def make_plugin(
    plugin: str, settings: Mapping[str, object], context: UpstreamContext
) -> CACore | CertificateSigner:
    """Return what the function of a plug-in makes.

    Args:
        plugin: Name of the entry point.
        settings: As they stand in the configuration.

    Raises:
        ConfigError: There is no such plug-in, there are several, or it cannot be used.
    """
    where = f"upstreams.{context.name}.plugin"
    found = tuple(entry_points(group=GROUP, name=plugin))
    if len(found) != 1:
        known = ", ".join(sorted({point.name for point in entry_points(group=GROUP)}))
        many = f"{len(found)} installed packages have" if found else "no installed package has"
        raise ConfigError(
            [
                Problem(
                    where,
                    f"{many} an entry point {plugin!r} in {GROUP}",
                    f"Install one package that has it; known are: {known or 'none'}",
                )
            ]
        )
    try:
        made = found[0].load()(settings, context)
    except ConfigError:
        raise
    except Exception as error:
        # Whatever a stranger's code raises. Its text is not repeated: the settings may hold a secret.
        raise ConfigError(
            [
                Problem(
                    where,
                    f"the plug-in failed with {type(error).__name__}",
                    f"Correct {context.setting}, or ask whoever wrote {found[0].value}",
                )
            ]
        ) from error
    if isinstance(made, CertificateSigner):
        return made
    if callable(getattr(made, "exchange", None)) and callable(getattr(made, "close", None)):
        return cast(CACore, made)
    raise ConfigError(
        [
            Problem(
                where,
                f"the plug-in made a {type(made).__name__}: neither a CertificateSigner nor a CACore",
                f"Ask whoever wrote {found[0].value}",
            )
        ]
    )
