"""Which hosts and origins the settings allow, and how they are read."""

import pytest

from service.errors import ConfigError
from service.hosts import AllowedHosts, AllowedOrigins, check_settings, parse_authority, parse_origin


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost", ("localhost", "")),
        ("LocalHost:8000", ("localhost", "8000")),
        ("localhost.", ("localhost", "")),
        ("localhost.:80", ("localhost", "80")),
        ("[::1]:8000", ("::1", "8000")),
        ("[0:0:0:0:0:0:0:1]", ("::1", "")),
        ("my_api:80", ("my_api", "80")),
        ("xn--bcher-kva.example", ("xn--bcher-kva.example", "")),
    ],
)
def test_an_authority_has_one_form(text: str, expected: tuple[str, str]) -> None:
    assert parse_authority(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", ":80", "user@localhost", "localhost:", "localhost:x", "localhost:123456", "localhost/", "localhost?x"),
        *("localhost\n", " localhost", "[::1", "::1", "[localhost]", "[::1%25lo]", "bücher.example", "a b", "a,b", "*"),
        *(".localhost", "-x", "x" * 255, "http://localhost"),
    ],
)
def test_a_malformed_authority_is_refused(text: str) -> None:
    assert parse_authority(text) is None


@pytest.mark.parametrize("text", ["null", "", "https://", "https://x/", "https://u@x", "https:x", "//x", "https://x\n"])
def test_a_malformed_origin_is_refused(text: str) -> None:
    assert parse_origin(text) is None


@pytest.mark.parametrize(
    ("listens_on", "allowed", "refused"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1", "127.9.9.9", "::1"], ["192.0.2.1", "x", "localhost.evil.example"]),
        ("192.0.2.1", ["192.0.2.1", "localhost"], ["192.0.2.2"]),
        ("api.internal", ["api.internal", "127.0.0.1"], ["internal", "x.api.internal"]),
        ("0.0.0.0", ["192.0.2.1", "2001:db8::1", "localhost"], ["evil.example", "1.2.3"]),
        ("::", ["192.0.2.1", "::1"], ["evil.example"]),
    ],
)
def test_without_a_setting_the_own_host_and_loopback_are_allowed(
    listens_on: str, allowed: list[str], refused: list[str]
) -> None:
    hosts = AllowedHosts((), listens_on=listens_on)
    assert [hosts.allow(host) for host in allowed] == [True] * len(allowed)
    assert [hosts.allow(host) for host in refused] == [False] * len(refused)


def test_the_setting_replaces_the_default_hosts() -> None:
    hosts = AllowedHosts(("API.example.org", "*.example.com", "[::1]"), listens_on="127.0.0.1")
    for host in ("api.example.org", "a.example.com", "a.b.example.com", "::1"):
        assert hosts.allow(host), host
    for host in ("localhost", "example.com", "evilexample.com", "a.example.com.evil.example", "127.0.0.1"):
        assert not hosts.allow(host), host
    assert AllowedHosts(("*",), listens_on="127.0.0.1").allow("any.example")


def test_origins_match_by_scheme_host_and_port() -> None:
    origins = AllowedOrigins(("https://app.example.org", "http://localhost:3000", "https://*.example.com:8443"))
    for text in (
        *("https://app.example.org", "https://app.example.org:443", "HTTPS://APP.example.org"),
        *("http://localhost:3000", "https://a.example.com:8443", "https://a.b.example.com:8443"),
    ):
        origin = parse_origin(text)
        assert origin is not None
        assert origins.allow(origin), text
    for text in (
        *("http://app.example.org", "https://app.example.org:444", "https://x.app.example.org", "http://localhost"),
        *("https://example.com:8443", "https://a.example.com", "https://evilexample.com:8443"),
        "https://a.example.com.evil.example:8443",
    ):
        origin = parse_origin(text)
        assert origin is not None
        assert not origins.allow(origin), text
    assert not AllowedOrigins(())


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("ALLOWED_HOSTS", ["https://x", "x:80", "a*.example.org", "*.", "", "bücher.example", "x/"]),
        (
            "CORS_ORIGINS",
            ["*", "null", "app.example.org", "https://x/", "https://*", "https://*.127.0.0.1", "https://"],
        ),
        ("TRUSTED_PROXIES", ["*", "proxy", "10.0.0.1/8", ""]),
    ],
)
def test_a_bad_value_is_refused_by_name(setting: str, values: list[str]) -> None:
    for value in values:
        given = [(value,) if name == setting else () for name in ("ALLOWED_HOSTS", "CORS_ORIGINS", "TRUSTED_PROXIES")]
        with pytest.raises(ConfigError, match=f"^{setting}: Expected "):
            check_settings(*given)
