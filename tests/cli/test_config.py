"""Settings: each can come from the environment or the YAML file, and one sentence names a wrong setting."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from service import config
from service.config import Settings
from service.errors import ConfigError
from tests.support.repository import ROOT

# For each setting: as the environment has it, as YAML may have it, and what becomes of either.
SECRET = "s" * 32
SAMPLES: dict[str, tuple[str, Any, Any]] = {
    "database_url": ("postgresql://a@b/c", "postgresql://a@b/c", "postgresql://a@b/c"),
    "listen_database_url": ("postgresql://a@d/c", "postgresql://a@d/c", "postgresql://a@d/c"),
    "database_pooler": ("none", "none", "none"),
    "treadle_home": ("/tmp/home", "/tmp/home", Path("/tmp/home")),
    "host": ("0.0.0.0", "0.0.0.0", "0.0.0.0"),
    "port": ("9000", 9000, 9000),
    "allowed_hosts": ("a.example, *.b.example", ["a.example", "*.b.example"], ("a.example", "*.b.example")),
    "cors_origins": ("https://a.example", ["https://a.example"], ("https://a.example",)),
    "trusted_proxies": ("10.0.0.0/8,::1", ["10.0.0.0/8", "::1"], ("10.0.0.0/8", "::1")),
    "client_requests_per_second": ("7", 7, 7.0),
    "client_open_streams": ("7", 7, 7),
    "auth": ("off", "off", "off"),
    "treadle_key": (SECRET, SECRET, SECRET),
    "treadle_key_file": ("key", "key", Path("key")),
    "jwt_issuer": ("https://issuer.test", "https://issuer.test", "https://issuer.test"),
    "jwt_audience": ("treadle", "treadle", "treadle"),
    "jwt_jwks": ("jwks.json", "jwks.json", "jwks.json"),
    "jwt_secret": (SECRET, SECRET, SECRET),
    "jwt_algorithms": ("RS256,ES256", ["RS256", "ES256"], ("RS256", "ES256")),
    "jwt_tenant_claim": ("org", "org", "org"),
    "jwt_subject_claim": ("none", "none", "none"),
    "jwt_scope_claim": ("scp", "scp", "scp"),
    "metrics_port": ("9100", 9100, 9100),
    "metrics_host": ("0.0.0.0", "0.0.0.0", "0.0.0.0"),
    "log_level": ("WARNING", "Warning", "warning"),
    "log_format": ("json", "json", "json"),
    "anthropic_api_key": ("sk-test", "sk-test", "sk-test"),
    "anthropic_base_url": ("http://localhost:1", "http://localhost:1", "http://localhost:1"),
    "openai_api_key": ("sk-other", "sk-other", "sk-other"),
    "openai_base_url": ("http://localhost:2/v1", "http://localhost:2/v1", "http://localhost:2/v1"),
    "model_name": ("claude-test", "claude-test", "claude-test"),
    "max_queue_size": ("7", 7, 7),
    "tenant_queued": ("7", 7, 7),
    "tenant_running": ("7", 7, 7),
    "tenant_per_minute": ("7", 7, 7),
    "tenant_bytes_per_day": ("7", 7, 7),
    "tenant_store_bytes": ("7", 7, 7),
    "max_message_chars": ("7", 7, 7),
    "max_body_bytes": ("7", 7, 7),
    "max_event_bytes": ("7", 7, 7),
    "max_result_bytes": ("7", 7, 7),
    "keepalive_interval": ("1.5", 1.5, 1.5),
    "connection_idle_timeout": ("1.5", 1.5, 1.5),
    "queues": ("fast, slow_2,", ["fast", "slow_2"], ("fast", "slow_2")),
    "tenants": ("acme, b-2,", ["acme", "b-2"], ("acme", "b-2")),
    "workers": ("0", 0, 0),
    "worker_concurrency": ("7", 7, 7),
    "webhook_concurrency": ("7", 7, 7),
    "webhook_networks": ("10.0.0.0/8,::1", ["10.0.0.0/8", "::1"], ("10.0.0.0/8", "::1")),
    "webhook_http": ("true", True, True),
    "agents": ("mine.one,mine.two", ["mine.one", "mine.two"], ("mine.one", "mine.two")),
    "agent_templates": ("agents.yaml", "agents.yaml", Path("agents.yaml")),
    "default_agent": ("poet", "poet", "poet"),
    "processing_timeout": ("7", 7, 7.0),
    "max_attempts": ("7", 7, 7),
    "max_losses": ("7", 7, 7),
    "retry_base_seconds": ("0.5", 0.5, 0.5),
    "retry_max_seconds": ("7", 7, 7.0),
    "overload_patience": ("900", 900, 900.0),
    "heartbeat_interval": ("0.5", 0.5, 0.5),
    "worker_timeout": ("7", 7, 7.0),
    "poll_interval": ("0.5", 0.5, 0.5),
    "shutdown_grace": ("7", 7, 7.0),
    "retention_hours": ("7", 7, 7.0),
    "dead_letter_retention_hours": ("7", 7, 7.0),
    "audit_retention_hours": ("7", 7, 7.0),
}


def write(path: Path, content: Any) -> dict[str, str]:
    """A YAML file; returns the environment that names it."""
    file = path / "treadle.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return {"TREADLE_CONFIG": str(file)}


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(environ)
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


def test_every_setting_has_a_sample_here() -> None:
    assert list(SAMPLES) == [field.name for field in msgspec.structs.fields(Settings)]


def test_every_setting_is_read_by_a_module() -> None:
    code = "\n".join(file.read_text(encoding="utf-8") for file in ROOT.glob("service/**/*.py"))
    read = set(re.findall(r"(?:(?<=settings\.)|(?<=self\.))\w+", code))
    assert SAMPLES.keys() - read == set()


def test_nothing_set_is_all_defaults(tmp_path: Path) -> None:
    assert config.load({}) == Settings()
    assert config.load(write(tmp_path, "")) == Settings()
    assert config.load({"TREADLE_CONFIG": "", "PORT": "", "QUEUES": "", "PATH": "/bin"}) == Settings()


@pytest.mark.parametrize("name", SAMPLES)
def test_a_setting_comes_from_the_environment(name: str) -> None:
    text, _, value = SAMPLES[name]
    settings = config.load({name.upper(): text})
    assert settings == msgspec.structs.replace(Settings(), **{name: value})
    assert type(getattr(settings, name)) is type(value)


@pytest.mark.parametrize("name", SAMPLES)
def test_a_setting_comes_from_the_file(name: str, tmp_path: Path) -> None:
    _, given, value = SAMPLES[name]
    assert config.load(write(tmp_path, {name: given})) == msgspec.structs.replace(Settings(), **{name: value})
    assert getattr(config.load(write(tmp_path, {name.upper(): given})), name) == value


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    environ = write(tmp_path, {name: given for name, (_, given, _) in SAMPLES.items()})
    settings = config.load({**environ, "PORT": "1234", "AGENTS": "other"})
    assert (settings.port, settings.agents) == (1234, ("other",))
    assert settings.queues == ("fast", "slow_2")


def test_a_file_may_hold_lists_as_text(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, "queues: fast, slow\nagents: mine")).queues == ("fast", "slow")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "http", "PORT: Expected a whole number, got a text."),
        ("PORT", "65536", "PORT: Expected a whole number, at most 65535."),
        ("PORT", "-1", "PORT: Expected a whole number, at least 0."),
        ("WORKERS", "-1", "WORKERS: Expected a whole number, at least 0."),
        ("WORKERS", "99999999999", "WORKERS: Expected a whole number, at most 1000."),
        ("WORKER_CONCURRENCY", "0", "WORKER_CONCURRENCY: Expected a whole number, at least 1."),
        ("MAX_ATTEMPTS", "2.5", "MAX_ATTEMPTS: Expected a whole number, got a text."),
        ("POLL_INTERVAL", "0", "POLL_INTERVAL: Expected a number above 0."),
        ("POLL_INTERVAL", "soon", "POLL_INTERVAL: Expected a number, got a text."),
        ("HEARTBEAT_INTERVAL", "nan", "HEARTBEAT_INTERVAL: Expected a number above 0."),
        ("RETENTION_HOURS", "inf", "RETENTION_HOURS: Expected a number, at most 1000000."),
        ("LOG_LEVEL", "loud", "LOG_LEVEL: Expected one of debug, info, warning, error, got 'loud'."),
        ("DATABASE_POOLER", "session", "DATABASE_POOLER: Expected one of none, transaction, got 'session'."),
        ("QUEUES", "fast,Slow", "QUEUES: Expected names of up to 40 letters a to z, digits and _, a letter first."),
        ("QUEUES", ",", "QUEUES: Expected at least one name."),
        (
            "WORKER_TIMEOUT",
            "3",
            "WORKER_TIMEOUT: Expected at least twice HEARTBEAT_INTERVAL, or living workers count as lost.",
        ),
        (
            "DATABASE_POOLER",
            "transaction",
            "LISTEN_DATABASE_URL: Expected an address without the pooler where DATABASE_POOLER is transaction.",
        ),
    ],
)
def test_a_wrong_value_is_named(name: str, value: str, said: str) -> None:
    assert refusal({name: value}) == said


def test_a_pooler_is_fine_with_a_way_past_it() -> None:
    settings = config.load({"DATABASE_POOLER": "transaction", "LISTEN_DATABASE_URL": "postgresql://a@direct/c"})
    assert settings.database_pooler == "transaction"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"port": "http"}, "PORT: Expected a whole number, got a text."),
        ({"port": None}, "PORT: Expected a whole number, got nothing."),
        ({"queues": ["ok", 7]}, "QUEUES: Expected a text, got a whole number."),
        ({"treadle_home": 7}, "TREADLE_HOME: Expected a path."),
        ({"treadle_home": None}, "TREADLE_HOME: Expected a path."),
        ({"port": 1, "prot": 1}, "TREADLE_CONFIG: {path} names the unknown setting PROT."),
        ({1: 2}, "TREADLE_CONFIG: {path} names the unknown setting 1."),
        (["port", 1], "TREADLE_CONFIG: {path} is not a mapping of settings."),
        ("just text", "TREADLE_CONFIG: {path} is not a mapping of settings."),
    ],
)
def test_a_wrong_file_is_named(content: Any, said: str, tmp_path: Path) -> None:
    environ = write(tmp_path, content)
    assert refusal(environ) == said.format(path=environ["TREADLE_CONFIG"])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing.yaml")
    assert refusal({"TREADLE_CONFIG": missing}).startswith(f"TREADLE_CONFIG: {missing} cannot be read: ")
    assert "cannot be read: " in refusal(write(tmp_path, "port: [1\nhost: {"))
    (tmp_path / "treadle.yaml").write_bytes(b"host: \xff\xfe")
    assert "cannot be read: " in refusal({"TREADLE_CONFIG": str(tmp_path / "treadle.yaml")})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]
