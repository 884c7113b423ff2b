"""What the values of an upstream's table must be together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ra_gateway.config.raw import Raw, Rule, exceeds, rows_of, value_of
from ra_gateway.config.values import texts
from ra_gateway.errors import Problem
from ra_gateway.upstream.kinds import CMPHTTPUpstream


def _check_upstream_urls(raw: Raw) -> Iterator[Problem]:
    for name, upstream in rows_of(raw, "upstreams"):
        if upstream.get("kind") != "cmp_http":
            continue
        path, urls = f"upstreams.{name}", upstream.get("urls")
        if "url" in upstream and "urls" in upstream:
            yield Problem(f"{path}.urls", "is given together with url", "Remove one of the two.")
        if not upstream.get("url") and not urls:
            yield Problem(
                f"{path}.url", "is required", "Say where to post, or give several in urls."
            )
        listed = texts(urls)
        for index, url in enumerate(listed):
            if url in listed[:index]:
                yield Problem(f"{path}.urls[{index}]", "is there already", "Remove one of the two.")
        # Not the default, which a short deadline_seconds just ends.
        if exceeds(
            upstream.get("try_deadline_seconds"),
            value_of(upstream, CMPHTTPUpstream, "deadline_seconds"),
        ):
            yield Problem(
                f"{path}.try_deadline_seconds",
                "is longer than deadline_seconds, which ends the whole exchange",
                "Shorten it.",
            )


def _check_upstream_tls(raw: Raw) -> Iterator[Problem]:
    needs = {
        "tls_certificate_path": "tls_key_path",
        "tls_key_path": "tls_certificate_path",
        "tls_key_password_path": "tls_key_path",
    }
    for name, upstream in rows_of(raw, "upstreams"):
        path = f"upstreams.{name}"
        for key, needed in needs.items():
            if key in upstream and needed not in upstream:
                yield Problem(
                    f"{path}.{key}",
                    f"is given without {needed}",
                    f"Give {needed} as well, or take it out.",
                )
        urls = texts(
            [*texts(upstream.get("urls")), upstream.get("url"), upstream.get("revoke_url")]
        )
        if urls and not any(url.lower().startswith("https:") for url in urls):
            for key in ("tls_ca_path", *needs):
                if key in upstream:
                    yield Problem(
                        f"{path}.{key}",
                        "is given, but TLS is not spoken: no URL is https",
                        "Write https:// in the URL, or take it out.",
                    )


def _check_bundled_ca(raw: Raw) -> Iterator[Problem]:
    if "ca" not in raw:
        for name, upstream in rows_of(raw, "upstreams"):
            if upstream.get("kind") == "bundled":
                yield Problem(
                    f"upstreams.{name}.kind",
                    "is bundled, but there is no [ca]",
                    "Add [ca] (`ra-gateway init` writes one), or use a CA over HTTP (cmp_http).",
                )


def _check_confirmation(raw: Raw) -> Iterator[Problem]:
    for name, upstream in rows_of(raw, "upstreams"):
        is_bundled = "bundled" in (upstream.get("kind"), upstream.get("dialect"))
        if is_bundled and upstream.get("certconf") == "local":
            yield Problem(
                f"upstreams.{name}.certconf",
                "is local (perhaps by the dialect), but the bundled CA waits for certConf, and revokes what is "
                "not confirmed",
                'Set certconf = "forward" or "implicit", or name no dialect of another CA.',
            )


def _check_ca_secrets(raw: Raw) -> Iterator[Problem]:
    for name, upstream in rows_of(raw, "upstreams"):
        if "mac" not in upstream:
            continue
        for key in ("requests", "kur"):
            if upstream.get(key) == "nested":
                yield Problem(
                    f"upstreams.{name}.{key}",
                    "is nested (perhaps by the dialect), which is signed, while [mac] has a secret for this CA",
                    'Set it to "reprotect", or take the table out: the CA knows the RA by one of the two.',
                )
        if upstream.get("batch_window_ms"):
            yield Problem(
                f"upstreams.{name}.batch_window_ms",
                "is set, while [mac] has a secret for this CA: a batch is signed",
                "Leave one of the two out.",
            )


def _check_ir_as_cr(raw: Raw) -> Iterator[Problem]:
    for name, upstream in rows_of(raw, "upstreams"):
        if upstream.get("ir_as_cr") is True and upstream.get("requests") in ("nested", "forward"):
            yield Problem(
                f"upstreams.{name}.ir_as_cr",
                f"is set, but requests is {upstream['requests']} (perhaps by the dialect): what goes up as its device "
                "signed it stays an ir",
                'Set requests = "reprotect", or leave ir_as_cr out.',
            )


UPSTREAM_RULES: Final[tuple[Rule, ...]] = (
    _check_upstream_urls,
    _check_upstream_tls,
    _check_bundled_ca,
    _check_confirmation,
    _check_ir_as_cr,
    _check_ca_secrets,
)
"""What is asked of each upstream."""
