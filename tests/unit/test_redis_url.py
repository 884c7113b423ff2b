"""URLs of the store: one Redis, Sentinels, a Cluster; and what is wrong with others."""

from __future__ import annotations

import pytest

from ra_gateway.redis_url import Kind, RedisURL, parse_redis_url

SECRET = "c0rrect-h0rse"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("redis://h", RedisURL(Kind.server, ("redis://h:6379",), ("h:6379",))),
        ("valkeys://h:1/2?a=b", RedisURL(Kind.server, ("rediss://h:1/2?a=b",), ("h:1",))),
        (
            "unix:///run/redis?db=1",
            RedisURL(Kind.server, ("unix:///run/redis?db=1",), ("/run/redis",)),
        ),
        (
            f"redis+sentinel://u:{SECRET}@s1,s2:5/my%20master/3?sentinel_password=x&sentinel_username=y",
            RedisURL(
                Kind.sentinel,
                (f"redis://u:{SECRET}@s1:26379/3", f"redis://u:{SECRET}@s2:5/3"),
                ("s1:26379", "s2:5"),
                "my master",
                ("y", "x"),
                has_password=True,
            ),
        ),
        (
            "rediss+sentinel://[::1]:7,h/m?ssl_ca_certs=/r.pem",
            RedisURL(
                Kind.sentinel,
                (
                    "rediss://[::1]:7?ssl_ca_certs=%2Fr.pem",
                    "rediss://h:26379?ssl_ca_certs=%2Fr.pem",
                ),
                ("[::1]:7", "h:26379"),
                "m",
            ),
        ),
        (
            "valkey+cluster://u@a:1,b",
            RedisURL(Kind.cluster, ("redis://u@a:1", "redis://u@b:6379"), ("a:1", "b:6379")),
        ),
    ],
)
def test_what_a_url_says(text: str, expected: RedisURL) -> None:
    """Each host gets a URL of its own with the same login and options."""
    assert parse_redis_url(text) == expected
    assert SECRET not in repr(expected)


@pytest.mark.parametrize(
    "url, what",
    [
        (f"http://:{SECRET}@h", "is not the URL"),
        (f"redis+cluster+x://:{SECRET}@h", "is not the URL"),
        (f"redis://:{SECRET}@a,b", "several hosts"),
        (f"redis+sentinel://:{SECRET}@a,b", "does not name what the Sentinels watch"),
        (f"redis+sentinel://:{SECRET}@a,/m", "no host"),
        (f"redis+sentinel://:{SECRET}@a:x/m", "is not the URL"),
        (f"redis+sentinel://:{SECRET}@a/m/{SECRET}", "no number"),
        (f"redis+cluster://:{SECRET}@a/1", "number 0 alone"),
        (f"redis+cluster://:{SECRET}@a?db=1", "number 0 alone"),
        (f"redis://a?sentinel_password={SECRET}", "leads to none"),
        (f"redis://:{SECRET}#@a", "has a #"),
        (f"redis://:{SECRET}[@a", "is not the URL"),
    ],
)
def test_what_is_wrong_is_said_without_the_url(url: str, what: str) -> None:
    """The text, and what it is chained to, repeat nothing of it."""
    with pytest.raises(ValueError, match=what) as caught:
        parse_redis_url(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None
