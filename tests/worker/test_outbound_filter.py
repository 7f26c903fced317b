"""Requests to addresses that clients name go to public ones only, whatever the name resolves to."""

import asyncio
import contextlib
import ipaddress
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from service import name_lookups
from service.errors import ConfigError
from service.name_lookups import NameLookups
from service.outbound_filter import AddressRefused, Answer, OutboundFilter, Unreachable
from tests.support.waiting import LIMIT_SECONDS, until

OWN = ("127.0.0.0/8",)
ASKED: dict[str, Any] = {"tenant": "a", "seconds": LIMIT_SECONDS}


@contextlib.asynccontextmanager
async def server(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server that gives each request this answer; its port, and the heads of what it was asked."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1], heads


def resolves_to(*addresses: str) -> Callable[..., Any]:
    return lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.1.2.3", "100.100.100.200", "127.0.0.1", "169.254.169.254", "172.31.0.1", "192.168.1.1"),
        *("198.18.0.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1", "::8.8.8.8", "::ffff:8.8.8.8"),
        *("::ffff:127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:1::1", "2001:db8::1"),
    ],
)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not OutboundFilter().allows(ipaddress.ip_address(address))


def test_public_addresses_and_named_networks_are_allowed() -> None:
    ours = OutboundFilter(networks=["10.1.0.0/16", "fd00::/8"])
    for address in ("8.8.8.8", "2606:4700::1111", "10.1.2.3", "fd00::1"):
        assert ours.allows(ipaddress.ip_address(address))
    assert not ours.allows(ipaddress.ip_address("10.2.0.1"))
    with pytest.raises(ConfigError, match="WEBHOOK_NETWORKS"):
        OutboundFilter(networks=["10.1.2.3/8"])


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://localhost/",
            "https://a.localhost./",
            "https://127.1/",
            "https://0x7f000001/",
            "https://2130706433/",
        ),
        *("https://[::1]/", "https://[fe80::1%25eth0]/", "http://example.com/", "ftp://example.com/", "example.com"),
        *("https://user:secret@example.com/", "https://example.com:25/", "https://example.com:0/", "https://exa mple/"),
        *("https://[::1", "https:///a", "https://example.com/\n", "https://example.com/" + "a" * 2000),
    ],
)
def test_an_url_is_refused_without_a_look_at_a_name_server(url: str) -> None:
    with pytest.raises(AddressRefused):
        OutboundFilter().check_url(url)


def test_other_urls_are_accepted() -> None:
    for url in (
        "https://example.com",
        "https://example.com:8443/a?b=c#d",
        "https://bücher.example/",
        "https://xn--bcher-kva.example/",
        "https://xn--ls8h.la/",
        "https://8.8.8.8",
    ):
        OutboundFilter().check_url(url)
    OutboundFilter(http=True).check_url("http://example.com:8080/")


@pytest.mark.parametrize("host", ["bücher.example", "xn--bcher-kva.example"])
async def test_the_addresses_of_a_name_in_both_spellings_are_checked(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    asked: list[str] = []

    def resolve(name: str, *_: Any, **__: Any) -> Any:
        asked.append(name)
        return resolves_to("10.0.0.1")()

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(AddressRefused, match="no public address"):
        await OutboundFilter().post(f"https://{host}/", b"{}", {}, **ASKED)
    assert asked == ["xn--bcher-kva.example"]


async def test_the_name_is_resolved_once_and_the_checked_address_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = [resolves_to("127.0.0.1"), resolves_to("127.0.0.1"), resolves_to("10.0.0.1", "127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.pop(0)())
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    redirect = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n"
    async with server(redirect) as (port, heads):
        url = f"http://hooks.example:{port}/a?b"
        with pytest.raises(AddressRefused, match="no public address"):
            await OutboundFilter(http=True).post(url, b"{}", {}, **ASKED)
        assert not heads
        ours = OutboundFilter(networks=OWN, http=True)
        assert (await ours.post(url, b"{}", {"X-One": "1"}, **ASKED)).status == 302  # not followed
        assert (await ours.post(url, b"{}", {}, **ASKED)).status == 302  # to the one address that is allowed
    assert heads[0].startswith(b"POST /a?b HTTP/1.1\r\n")
    assert f"Host: hooks.example:{port}".encode() in heads[0]
    assert b"X-One: 1" in heads[0]
    assert not answers


async def test_what_does_not_answer_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = OutboundFilter(networks=OWN, http=True)
    async with server(b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 1_000_000) as (port, _):
        assert (await ours.post(f"http://127.0.0.1:{port}", b"", {}, **ASKED)).status == 200  # its body is not read
    with pytest.raises(Unreachable, match="cannot be reached"):
        await ours.post(f"http://127.0.0.1:{port}", b"", {}, **ASKED)
    async with server(b"") as (port, _):
        with pytest.raises(Unreachable):
            await ours.post(f"http://127.0.0.1:{port}", b"", {}, **ASKED)
    silent = socket.create_server(("127.0.0.1", 0))
    with silent, pytest.raises(Unreachable, match=r"within 0\.05 seconds"):
        await ours.post(f"http://127.0.0.1:{silent.getsockname()[1]}", b"", {}, tenant="a", seconds=0.05)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(Unreachable, match="cannot be resolved"):
        await ours.post("https://nope.example/", b"", {}, **ASKED)


async def test_a_tenant_whose_name_servers_do_not_answer_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(name_lookups, "PLACE_SECONDS", 0.05)
    monkeypatch.setattr(name_lookups, "LOOKUP_SECONDS", LIMIT_SECONDS)
    answers = threading.Event()
    asked: list[str] = []

    def look_up(name: str, *_: object, **__: object) -> Any:
        asked.append(name)
        if name.startswith("silent"):
            answers.wait()
        return resolves_to("127.0.0.1")()

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    lookups = NameLookups()
    silent = [asyncio.create_task(lookups.find("a", f"silent{number % 20}")) for number in range(100)]
    try:
        await asyncio.wait(silent[16:20])  # they find no place
        for task in silent[16:20]:
            with pytest.raises(name_lookups.Crowded):
                task.result()
        assert await lookups.find("b", "fine") == [ipaddress.ip_address("127.0.0.1")]
        monkeypatch.setattr(OutboundFilter, "_post", lambda *_: asyncio.sleep(0, Answer(200, {})))
        ours = OutboundFilter(networks=OWN)
        ours._lookups = lookups  # an address needs no lookup
        assert await ours.post("https://127.0.0.1/", b"", {}, **ASKED) == Answer(200, {})
        await until(lambda: len(asked) >= 17)  # each thread has begun
        assert sorted(asked) == sorted(["fine", *(f"silent{number}" for number in range(16))])  # each name once
    finally:
        answers.set()
    await asyncio.gather(*silent, return_exceptions=True)
    assert await lookups.find("a", "fine")
