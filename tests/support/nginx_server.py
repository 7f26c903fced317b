"""The nginx of the machine, with the example of this project."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.requirements import require_or_skip
from tests.support.waiting import until

EXAMPLE = ROOT / "examples" / "proxy" / "nginx.conf"
CERTIFICATES = "/etc/letsencrypt/live/api.example.org/"
MAIN = """
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


def _find(program: str) -> str | None:
    return shutil.which(program, path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin:/opt/homebrew/bin")


@contextlib.asynccontextmanager
async def nginx_before(api_port: int, folder: Path) -> AsyncIterator[int]:
    """Run the example with its own certificate, before the API at this port; gives the port that speaks TLS. Its access
    log is `treadle.access.log` in the folder."""
    program = require_or_skip(_find("nginx"), "nginx: install Debian's package nginx")
    openssl = require_or_skip(_find("openssl"), "openssl: install Debian's package openssl")
    port, plain_port = free_port(), free_port()
    text = EXAMPLE.read_text(encoding="utf-8")
    for written, here in (
        ("server 127.0.0.1:8000;", f"server 127.0.0.1:{api_port};"),
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("listen 80;", f"listen 127.0.0.1:{plain_port};"),
        (CERTIFICATES, f"{folder}/"),
        ("/var/log/nginx/", f"{folder}/"),
    ):
        assert written in text
        text = text.replace(written, here)
    (folder / "treadle.conf").write_text(text, encoding="utf-8")
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder), encoding="utf-8")
    certificate = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
    files = ("-subj", "/CN=api.example.org", "-keyout", f"{folder}/privkey.pem", "-out", f"{folder}/fullchain.pem")
    await asyncio.to_thread(subprocess.run, [openssl, *certificate, *files], check=True, capture_output=True)
    process = await asyncio.create_subprocess_exec(
        program, "-e", "stderr", "-p", str(folder), "-c", f"{folder}/nginx.conf"
    )
    try:
        await until(lambda: process.returncode is not None or _accepts(port))
        assert process.returncode is None
        yield port
    finally:
        process.terminate()
        await process.wait()


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
