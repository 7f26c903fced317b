"""The nginx and the Caddy of the machine, with the examples of this project."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from tests.support.ports import free_port, is_listening
from tests.support.repository import ROOT
from tests.support.requirements import require_or_skip
from tests.support.waiting import until

ReverseProxy = Callable[[int, Path], AbstractAsyncContextManager[int]]

NAME = "api.example.org"
ACCESS_LOG = "treadle.access.log"
EXAMPLES = ROOT / "examples" / "proxy"
CERTIFICATES = f"/etc/letsencrypt/live/{NAME}/"
NGINX_MAIN = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{}}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    gzip on;  # for all types, as some installations have it
    gzip_types *;
    include {folder}/treadle.conf;
}}
"""
# `default_sni`: the tests open the address, not the name.
CADDY_MAIN = """
{{
    admin off
    auto_https disable_redirects
    default_sni {name}
    https_port {port}
}}
import {folder}/treadle.caddy
"""


@contextlib.asynccontextmanager
async def nginx_before(api_port: int, folder: Path) -> AsyncIterator[int]:
    """Run the example with its own certificate, before the API at this port; gives the port that speaks TLS. Its access
    log is ACCESS_LOG in the folder."""
    program = require_or_skip(_find("nginx"), "nginx: install Debian's package nginx")
    port, plain_port = free_port(), free_port()
    (folder / "treadle.conf").write_text(
        _example(
            "nginx.conf",
            ("server 127.0.0.1:8000;", f"server 127.0.0.1:{api_port};"),
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("listen 80;", f"listen 127.0.0.1:{plain_port};"),
            (CERTIFICATES, f"{folder}/"),
            ("/var/log/nginx/", f"{folder}/"),
        ),
        encoding="utf-8",
    )
    (folder / "nginx.conf").write_text(NGINX_MAIN.format(folder=folder), encoding="utf-8")
    await _certify(folder)
    async with _running(port, program, "-e", "stderr", "-p", str(folder), "-c", f"{folder}/nginx.conf"):
        yield port


@contextlib.asynccontextmanager
async def caddy_before(api_port: int, folder: Path) -> AsyncIterator[int]:
    """As `nginx_before`, with Caddy."""
    program = require_or_skip(_find("caddy"), "caddy: install Debian's package caddy")
    port = free_port()
    (folder / "treadle.caddy").write_text(
        _example(
            "Caddyfile",
            (
                f"{NAME} {{",
                f"{NAME} {{\n\tbind 127.0.0.1\n\ttls {folder}/fullchain.pem {folder}/privkey.pem",
            ),
            ("reverse_proxy 127.0.0.1:8000", f"reverse_proxy 127.0.0.1:{api_port}"),
            ("log {", f"log {{\n\t\toutput file {folder}/{ACCESS_LOG}"),
        ),
        encoding="utf-8",
    )
    (folder / "Caddyfile").write_text(CADDY_MAIN.format(folder=folder, name=NAME, port=port), encoding="utf-8")
    await _certify(folder)
    homes = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    arguments = ("run", "--config", f"{folder}/Caddyfile", "--adapter", "caddyfile")
    async with _running(port, program, *arguments, environment=homes):
        yield port


def _find(program: str) -> str | None:
    return shutil.which(program, path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/opt/homebrew/bin")


def _example(name: str, *changes: tuple[str, str]) -> str:
    """The text of an example, with the ports and files of this test."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    for written, here in changes:
        assert written in text
        text = text.replace(written, here)
    return text


async def _certify(folder: Path) -> None:
    """Write a certificate of NAME."""
    openssl = require_or_skip(_find("openssl"), "openssl: install Debian's package openssl")
    certificate = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
    names = ("-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}")
    files = ("-keyout", f"{folder}/privkey.pem", "-out", f"{folder}/fullchain.pem")
    await asyncio.to_thread(subprocess.run, [openssl, *certificate, *names, *files], check=True, capture_output=True)


@contextlib.asynccontextmanager
async def _running(
    port: int, program: str, *arguments: str, environment: dict[str, str] | None = None
) -> AsyncIterator[None]:
    """Run the program meanwhile; it accepts connections at the port."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, env={**os.environ, **(environment or {})}, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await until(lambda: process.returncode is not None or is_listening(port))
        assert process.returncode is None
        yield
    finally:
        process.terminate()
        await process.wait()
