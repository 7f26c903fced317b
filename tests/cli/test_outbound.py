"""Proxies and certificates in the environment: agents can work with them, or one sentence names the variable."""

import asyncio
import os
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import pytest

from service import config, outbound
from service.agents.rounds.mcp_server import McpServer
from service.errors import ConfigError
from tests.support.cli_runner import Cli, error_sentence
from tests.support.waiting import LIMIT_SECONDS

NAMES = [name for upper in (*outbound.PROXY_VARIABLES, "NO_PROXY") for name in (upper, upper.lower())]


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment, without any proxy."""
    for name in (*NAMES, "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    "variables",
    [
        {"ALL_PROXY": "socks5://127.0.0.1:1080"},
        {"all_proxy": "socks5h://me:secret@[::1]:1080"},
        {"HTTPS_PROXY": "proxy.example:3128"},
        {"HTTPS_PROXY": "http://127.0.0.1:3128", "NO_PROXY": "localhost,127.0.0.1,[::1],fe80::/10,::1"},
        {"HTTP_PROXY": "http://127.0.0.1:3128", "NO_PROXY": "10.0.0.0/99, a b,*.corp,[fe80::1%eth0],https://x:y,"},
        {"HTTP_PROXY": "socks4://x:y", "http_proxy": ""},
        {"NO_PROXY": "xn--,xn--a.b,xn--zzzzzzz,.xn--,*.xn--a.b,http://[v1.x],all://xn--", "ALL_PROXY": "http://h:1"},
        {"NO_PROXY": "münchen.de,xn--ls8h.la,.xn--mnchen-3ya.de,http://xn--ls8h.la", "ALL_PROXY": "http://h:1"},
        {"NO_PROXY": "*", "ALL_PROXY": "socks5://127.0.0.1:1080"},
    ],
)
async def test_clients_can_be_made_with_every_accepted_environment(
    environ: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        environ.setenv(name, value)
    outbound.prepare(os.environ)
    await httpx2.AsyncClient().aclose()
    await anthropic.AsyncAnthropic(api_key="k").close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ALL_PROXY", "socks4://127.0.0.1:1080"),
        ("HTTP_PROXY", "http://127.0.0.1:port"),
        ("HTTPS_PROXY", "ftp://proxy:1"),
        ("https_proxy", "http://"),
        ("http_proxy", "http://[::1"),
        ("HTTP_PROXY", "proxy:99999"),
        ("SSL_CERT_FILE", "/nonexistent.pem"),
        ("SSL_CERT_DIR", "/nonexistent"),
        ("SSL_CERT_FILE", __file__),
        ("SSL_CERT_FILE", str(Path(__file__).parent)),
        ("SSL_CERT_DIR", __file__),
        ("SSLKEYLOGFILE", "/nonexistent/x"),
        ("HTTPS_PROXY", " http://127.0.0.1:80"),
        ("HTTPS_PROXY", "http://300.1.1.1:80"),
        ("HTTP_PROXY", "http://[v1.x]:80"),
        ("ALL_PROXY", "http://☃:80"),
        ("HTTPS_PROXY", "http://xn--:80"),
        ("HTTPS_PROXY", "http://xn--ls8h.la:80"),  # httpx fails for it
    ],
)
async def test_an_environment_without_a_client_is_one_sentence(
    cli_without_database: Cli, environ: pytest.MonkeyPatch, name: str, value: str, tmp_path: Path
) -> None:
    environ.setenv(name, value)
    keys = {"JWT_ISSUER": "https://i.example", "JWT_AUDIENCE": "a", "JWT_JWKS": "https://i.example/keys"}
    for command in ("up", "work", "serve"):
        said = error_sentence(await cli_without_database(command, TREADLE_HOME=str(tmp_path), **keys))
        assert said.startswith(f"{name}: ")


@pytest.mark.parametrize("name", ["ANTHROPIC_BASE_URL", "OPENAI_BASE_URL"])
@pytest.mark.parametrize(
    "url",
    [
        *("http://localhost:port", "localhost:8080", "ftp://x", "http://", "http://[::1"),
        *("http://300.1.1.1", " http://h", "http://☃", "http://xn--", "http://[v1.x]"),
    ],
)
def test_a_wrong_address_of_the_model_is_one_sentence(name: str, url: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name}: Expected an address"):
        config.load({name: url})


@pytest.mark.parametrize("host", ["münchen.de", "xn--mnchen-3ya.de", "xn--ls8h.la"])
def test_a_name_in_unicode_or_punycode_is_an_address(host: str) -> None:
    url = f"https://{host}/v1"
    assert config.load({"OPENAI_BASE_URL": url}).openai_base_url == url
    assert McpServer(url=url).place == url


@pytest.mark.parametrize("client", [httpx2.AsyncClient, httpx.AsyncClient])
@pytest.mark.parametrize("excepted", ["münchen.invalid", "xn--mnchen-3ya.invalid"])
async def test_no_proxy_excepts_a_name_in_both_spellings(
    environ: pytest.MonkeyPatch, excepted: str, client: Any
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        environ.setenv("ALL_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        environ.setenv("NO_PROXY", excepted)
        outbound.prepare(os.environ)
        async with client(timeout=LIMIT_SECONDS) as http:
            assert (await http.get("http://other.invalid/")).status_code == 200
            for host in ("münchen.invalid", "xn--mnchen-3ya.invalid"):
                with pytest.raises((httpx2.ConnectError, httpx.ConnectError)):  # no server has such a name
                    await http.get(f"http://{host}/")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("localhost, 127.0.0.1,[::1],fe80::/10,::1", "localhost,127.0.0.1,::1,::1"),
        (
            "10.0.0.0/8,10.0.0.0/99,a b,*.corp,.corp,[fe80::1%eth0],https://x:y,https://x:1",
            "10.0.0.0/8,*.corp,.corp,https://x:1",
        ),
        (
            "münchen.de:80,www.xn--mnchen-3ya.de,*.münchen.de,.xn--mnchen-3ya.de,xn--ls8h.la",
            "all://münchen.de:80,all://www.xn--mnchen-3ya.de",
        ),
        ("*", "*"),
        ("", ""),
    ],
)
def test_entries_of_no_proxy_that_no_client_reads_are_dropped(given: str, kept: str) -> None:
    variables = {"NO_PROXY": given}
    outbound.prepare(variables)
    assert variables == {"NO_PROXY": kept}


async def test_a_socks_proxy_is_spoken_to(environ: pytest.MonkeyPatch) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = await reader.readexactly(2)
        await reader.readexactly(greeting[1])
        writer.write(b"\x05\x00")  # version 5, no authentication
        command = await reader.readexactly(5)
        await reader.readexactly(command[4] + 2)
        writer.write(b"\x05\x00\x00\x01" + bytes(6))  # connected
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nby proxy!")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        environ.setenv("ALL_PROXY", f"socks5://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with httpx2.AsyncClient(timeout=LIMIT_SECONDS) as client:
            assert (await client.get("http://remote.example/")).text == "by proxy!"
