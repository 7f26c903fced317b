"""The address of PostgreSQL: libpq's parameters are passed on, carried out or refused in one sentence."""

import socket
from pathlib import Path
from typing import Any

import pytest

from service import config, database_address
from service.db.pool import Connection, connect
from service.errors import ConfigError
from tests.support.cli_runner import Cli

SECRET = "geheim"


def sentence(url: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load({"DATABASE_URL": url})
    said = str(caught.value)
    assert said.startswith("DATABASE_URL: ")
    assert said.endswith(".")
    assert SECRET not in said
    assert "\n" not in said
    return said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("garbage", "Expected an address such as postgresql://"),
        ("host=localhost dbname=treadle", "Expected an address such as postgresql://"),
        ("mysql://me@host/db", "Expected an address such as postgresql://"),
        ("postgresql+asyncpg://me@host/db", "Expected an address such as postgresql://"),
        ("postgresql:/me@host/db", "Expected an address such as postgresql://"),
        ("postgresql://me@host:99999/db", "Expected a port from 1 to 65535, got '99999'"),
        ("postgresql://me@host:0/db", "Expected a port from 1 to 65535, got '0'"),
        ("postgresql://me@host:port/db", "Expected a port from 1 to 65535, got 'port'"),
        ("postgresql://me@host:-1/db", "Expected a port from 1 to 65535"),
        ("postgresql:///db?host=one&port=x", "Expected a port from 1 to 65535"),
        ("postgresql:///db?host=one,two&port=1,2,3", "Expected one port or as many as hosts"),
        ("postgresql://me@::1/db", "Expected an IPv6 address in brackets"),
        ("postgresql://me@[::1/db", "Invalid IPv6 URL"),
        (f"postgresql://me:{SECRET}@x@host/db", "Expected %40 in the place of an @"),
        (f"postgresql://me:{SECRET}#x@host/db", "Expected %23 in the place of '#'"),
        (f"postgresql://me:{SECRET}%zz@host/db", "Expected %25"),
        ("postgresql://me@ho st/db", "Expected %20"),
        ("postgresql://me@host/db?sslmode", "Expected name=value among the parameters, got 'sslmode'"),
        ("postgresql://me@host/db?colour=blue", "There is no parameter 'colour'"),
        ("postgresql://me@host/db?statement_timeout=5s", "is written options=-c%20name%3Dvalue"),
        ("postgresql://me@host/db?sslmode=maybe", "sslmode may be disable or allow or"),
        ("postgresql://me@host/db?channel_binding=require", "channel_binding may be disable or prefer here"),
        ("postgresql://me@host/db?gssencmode=require", "gssencmode may be disable or prefer here"),
        ("postgresql://me@host/db?target_session_attrs=standby", "target_session_attrs may be any or read-write"),
        ("postgresql://me@host/db?client_encoding=latin1", "client_encoding may be auto or utf8"),
        ("postgresql://me@host/db?require_auth=scram-sha-256", "require_auth is not supported"),
        ("postgresql://me@host/db?connect_timeout=soon", "Expected a whole number as connect_timeout"),
        ("postgresql://me@host/db?keepalives_idle=1.5", "Expected a whole number as keepalives_idle"),
        ("postgresql://me@host/db?sslrootcert=/nowhere.pem", "The file /nowhere.pem of sslrootcert does not exist"),
        ("postgresql://me@host/db?sslmode=require&sslrootcert=system", "Expected sslmode=verify-full"),
        ("postgresql://me@host/db?sslmode=verify-full&hostaddr=10.0.0.1", "Expected host instead of hostaddr"),
        ("postgresql://me@host/db?hostaddr=notanip", "'notanip' does not appear to be an IPv4 or IPv6 address"),
        ("postgresql://me@host/db?application_name=a%00b", "Expected no character with the code 0"),
        ("postgresql://me%00@host/db", "Expected no character with the code 0 in user"),
        ("postgresql://me@host/db?options=garbage", "Expected options=-c%20name%3Dvalue, got 'garbage'"),
        ("postgresql://me@host/db?options=-c", "Expected options=-c%20name%3Dvalue, got '-c'"),
        ("postgresql://me@host/db?options=--x", "Expected options=-c%20name%3Dvalue, got '--x'"),
        ("postgresql://me@host/db?options=-c%20statement_timeout%3D1ms", "Expected statement_timeout in options of at"),
        ("postgresql://me@host/db?options=--statement-timeout%3D20", "Expected statement_timeout in options of at"),
        ("postgresql://me@host/db?options=-cdefault_transaction_isolation%3Dserializable", "but 'read committed'"),
        ("postgresql://me@host/db?keepalives_idle=999999999", "Expected a keepalives_idle that this system takes"),
        ("postgresql://me@host/db?keepalives_count=999999", "Expected a keepalives_count that this system takes"),
    ],
)
def test_a_wrong_address_is_one_sentence_without_the_password(url: str, said: str) -> None:
    assert said in sentence(url)


@pytest.mark.parametrize("name", ["sslrootcert", "sslcrl", "sslcert"])
@pytest.mark.parametrize("mode", ["prefer", "verify-ca"])
def test_a_file_that_is_no_pem_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    path = tmp_path / "file.pem"
    path.write_text("no PEM")
    said = sentence(f"postgresql://me@host/db?sslmode={mode}&{name}={path}&sslkey={path}")
    assert f"{path} of {name} cannot be used" in said
    assert database_address.parse(f"postgresql://me@host/db?sslmode=disable&{name}={path}&sslkey={path}").hosts
    monkeypatch.setenv(f"PG{name.upper()}", str(path))
    database_address.parse.cache_clear()
    if mode == "verify-ca" or name == "sslcert":
        assert f"{path} of {name} cannot be used" in sentence(f"postgresql://me@host/db?sslmode={mode}")


def test_the_port_in_front_stays_where_a_parameter_names_the_host() -> None:
    for query, host in (("hostaddr=127.0.0.1", "127.0.0.1"), ("host=other", "other"), ("hostaddr=::1", "::1")):
        assert database_address.parse(f"postgresql://me@h:77/db?{query}").hosts == ((host, 77),)
    assert database_address.parse("postgresql://h:1,i:2/db?host=a,b").hosts == (("a", 1), ("b", 2))
    assert database_address.parse("postgresql://h:1/db?host=a&port=3").hosts == (("a", 3),)


def test_both_addresses_are_checked() -> None:
    with pytest.raises(ConfigError, match="LISTEN_DATABASE_URL: Expected an address"):
        config.load({"LISTEN_DATABASE_URL": "direct"})


@pytest.mark.parametrize("url", ["nonsense", "postgresql://x:99999/y", "postgresql://x/y?colour=blue"])
@pytest.mark.parametrize("command", ["migrate", "check", "up", "serve", "work", "dsn"])
async def test_every_command_refuses_a_wrong_address_with_exit_code_1(
    cli_without_database: Cli, command: str, url: str
) -> None:
    result = await cli_without_database(command, DATABASE_URL=url)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "DATABASE_URL: " in result.stderr


def test_what_asyncpg_does_not_know_is_not_passed_on() -> None:
    address = database_address.parse(
        " postgres://me:p%40w@one,two:2/db?connect_timeout=7&channel_binding=prefer&gssencmode=disable"
        "&application_name=mine&options=-c%20geqo%3Doff&load_balance_hosts=random&sslmode=&sslsni=1&keepalives_idle=30\n"
    )
    assert address.url == (
        "postgresql://me:p%40w@/db?application_name=mine&options=-c%20geqo%3Doff&host=one,two&port=5432,2"
    )
    assert (address.connect_seconds, address.application_name, address.any_order) == (7.0, "mine", True)
    assert (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1) in address.socket_options
    assert address.hosts == (("one", None), ("two", 2))


@pytest.mark.parametrize(
    ("query", "sslmode"), [("ssl=true", "require"), ("ssl=true&sslmode=verify-ca", "verify-ca"), ("", None)]
)
def test_ssl_true_is_sslmode_require(query: str, sslmode: str | None) -> None:
    url = database_address.parse(f"postgresql://me@host/db?{query}").url
    assert (f"sslmode={sslmode}" in url) == (sslmode is not None)


def test_the_systems_certificates_check_the_server() -> None:
    address = database_address.parse("postgresql://me@host/db?sslmode=verify-full&sslrootcert=system")
    assert address.system_certificates
    assert "ssl" not in address.url


def test_a_unix_socket_may_stand_in_the_place_of_the_host(tmp_path: Path) -> None:
    for url in (
        f"postgresql://me@/db?host={tmp_path}&port=5",
        f"postgresql://me@{str(tmp_path).replace('/', '%2F')}:5/db",
    ):
        assert database_address.parse(url).hosts == ((str(tmp_path), 5),)


async def test_a_unix_socket_has_no_tls(
    sql: Connection, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the shell has PGSSLMODE for other servers, and no certificates."""
    folder, port = await sql.fetchval("show unix_socket_directories"), await sql.fetchval("show port")
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("PGSSLNEGOTIATION", "direct")
    monkeypatch.setenv("HOME", str(tmp_path))
    database = dsn.rpartition("/")[2]
    for place in (f"host={folder}&port={port}", f"host={folder},{folder}&port={port},{port}"):
        connection = await connect(f"postgresql://treadle@/{database}?{place}", name="test")
        assert await connection.fetchval("select inet_server_addr()") is None
        await connection.close()


# What PQconndefaults() of libpq 18.6 lists.
OF_LIBPQ = """
    service user password passfile channel_binding connect_timeout dbname host hostaddr port client_encoding options
    application_name fallback_application_name keepalives keepalives_idle keepalives_interval keepalives_count
    tcp_user_timeout sslmode sslnegotiation sslcompression sslcert sslkey sslcertmode sslpassword sslrootcert sslcrl
    sslcrldir sslsni requirepeer require_auth min_protocol_version max_protocol_version ssl_min_protocol_version
    ssl_max_protocol_version gssencmode krbsrvname gsslib gssdelegation replication target_session_attrs
    load_balance_hosts scram_client_key scram_server_key oauth_issuer oauth_client_id oauth_client_secret oauth_scope
    sslkeylogfile"""


def test_every_parameter_of_libpq_is_used_or_refused() -> None:
    used = database_address.PASSED_ON | database_address.CARRIED_OUT | database_address.WITHOUT_EFFECT.keys()
    refused = set(OF_LIBPQ.split()) - used
    assert refused == {
        *("requirepeer", "require_auth", "scram_client_key", "scram_server_key", "sslcrldir", "sslkeylogfile"),
        *("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"),
    }
    for name in refused:
        assert f"The parameter {name} is not supported: leave it out" in sentence(f"postgresql://h/db?{name}=x")


@pytest.mark.parametrize(
    ("url", "login"),
    [
        ("postgresql://me:a@host/db?user=you&password=b%2Bc&dbname=other%2Fdb", "you:b%2Bc@/other%2Fdb"),
        ("postgresql://me@host/?database=other", "me@/other"),
        ("postgresql://host/?user=you", "you@"),
        ("postgresql://host?dbname=other", "/other"),
        ("postgresql://host", ""),
    ],
)
def test_parameters_go_before_what_stands_in_front_of_them(url: str, login: str) -> None:
    assert database_address.parse(url).url == f"postgresql://{login}?host=host"


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the user's file of services and that of the system."""
    own, system = tmp_path / "own.conf", tmp_path / "pg_service.conf"
    own.write_text(
        "# ours\n[one]\nhost=one,two\nport=1,2\nuser=u\npassword=100%sure=\ndbname=d\nconnect_timeout=7\n\n"
        "[colour]\ncolour=blue\n[auth]\nrequire_auth=none\n[nested]\nservice=one\n[line]\nwords\n"
    )
    system.write_text("[one]\nhost=never\n[all]\nhost=everywhere\n")
    monkeypatch.setenv("PGSERVICEFILE", str(own))
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    return tmp_path


@pytest.mark.usefixtures("services")
def test_a_service_gives_what_the_address_does_not() -> None:
    address = database_address.parse("postgresql:///?service=one")
    assert (address.hosts, address.connect_seconds) == ((("one", 1), ("two", 2)), 7.0)
    assert address.url == "postgresql://u:100%25sure%3D@/d?host=one,two&port=1,2"
    address = database_address.parse("postgresql://me@there:9/db?service=one&connect_timeout=8")
    assert (address.hosts, address.connect_seconds) == ((("there", 9),), 8.0)
    assert address.url == "postgresql://me:100%25sure%3D@/db?host=there&port=9"
    assert database_address.parse("postgresql:///?service=all").hosts == (("everywhere", None),)


@pytest.mark.parametrize(
    ("service", "said"),
    [
        ("none", "Expected a definition of the service 'none' in {0}/own.conf or {0}/pg_service.conf"),
        ("colour", "There is no parameter 'colour'"),
        ("auth", "The parameter require_auth is not supported"),
        ("nested", "Expected name=value in line 15 of {0}/own.conf"),
        ("line", "Expected name=value in line 17 of {0}/own.conf"),
    ],
)
def test_a_wrong_service_is_one_sentence(services: Path, service: str, said: str) -> None:
    assert said.format(services) in sentence(f"postgresql://me:{SECRET}@/db?service={service}")


def test_a_service_without_files_is_one_sentence(services: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSYSCONFDIR")
    monkeypatch.setenv("PGSERVICEFILE", str(services / "missing"))
    assert f"Expected a definition of the service 'x' in {services / 'missing'}" in sentence("postgresql:///?service=x")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    assert f"The file {services} of service cannot be read: Is a directory" in sentence("postgresql:///?service=y")


async def test_a_service_takes_effect(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _, database = dsn.rpartition("/")
    _, _, place = server.rpartition("@")
    host, _, port = place.partition(":")
    file = tmp_path / "services"
    file.write_text(f"[s]\nhost={host}\nport={port}\nuser=treadle\ndbname={database}\noptions=-c geqo=off\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    connection = await connect("postgresql:///?service=s", name="test")
    assert await connection.fetchval("select current_setting('geqo') || current_database()") == f"off{database}"
    await connection.close()


async def test_parameters_take_effect(dsn: str) -> None:
    connection = await connect(
        f"{dsn}?options=-c%20geqo%3Doff%20-c%20timezone%3DAsia/Tokyo&application_name=mine&keepalives_idle=33"
        "&connect_timeout=10&channel_binding=prefer",
        name="test",
    )
    assert await connection.fetchval("show geqo") == "off"
    assert await connection.fetchval("show application_name") == "mine"
    assert await connection.fetchval("show timezone") == "UTC"
    transport: Any = getattr(connection, "_transport")  # noqa: B009  # asyncpg has no public way to its socket
    opened = transport.get_extra_info("socket")
    assert opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 33
    await connection.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda dsn: dsn.replace("treadle@", "stranger@"), 'role "stranger" does not exist'),
        (lambda dsn: f"{dsn}_none", "does not exist"),
        (lambda dsn: f"{dsn}?options=-c%20colour%3Dblue", 'unrecognized configuration parameter "colour"'),
        (lambda dsn: f"{dsn}?options=-c%20geqo%3Dmaybe", 'parameter "geqo" requires a Boolean value'),
        (lambda dsn: f"{dsn}?sslmode=require", "rejected SSL upgrade"),
    ],
)
async def test_what_the_server_refuses_for_good_ends_a_migration(cli: Cli, dsn: str, change: object, said: str) -> None:
    assert callable(change)
    result = await cli("migrate", DATABASE_URL=change(dsn))
    assert (result.exit_code, said in result.stderr) == (1, True), result.stderr


async def test_a_wrong_variable_of_libpq_is_one_sentence(cli: Cli, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "maybe")
    result = await cli("migrate", DATABASE_URL=dsn)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "PostgreSQL's address cannot be used" in result.stderr


async def test_a_server_that_is_away_is_worth_another_try(cli: Cli, sql: Connection) -> None:
    assert (await cli("migrate", DATABASE_URL="postgresql://me@127.0.0.1:1/db")).exit_code == 75
