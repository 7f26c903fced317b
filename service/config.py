"""Settings: the environment (service/cli/env_file.py adds the file .env), or a YAML file named by TREADLE_CONFIG; the
environment wins.

They are read once, in `cli`, into one frozen Struct that is handed down. Names are the environment's in lower case.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import msgspec
import yaml
from msgspec import Meta

from service import database_address, hosts, outbound, outbound_filter
from service.errors import ConfigError
from service.limits import (
    MAX_AGENT_NAME_CHARS,
    MAX_QUEUE_NAME_CHARS,
    QUEUE_NAME_PATTERN,
    WEBHOOK_QUEUE,
    TenantName,
)

Positive = Annotated[float, Meta(gt=0, le=1_000_000)]
AtLeastOne = Annotated[int, Meta(ge=1)]
QueueName = Annotated[str, Meta(pattern=QUEUE_NAME_PATTERN)]
AgentName = Annotated[str, Meta(min_length=1, max_length=MAX_AGENT_NAME_CHARS)]
Secret = Annotated[str, Meta(min_length=32, max_length=10_000, pattern=r"^[!-~]+$(?![\s\S])")]
JwtAlgorithm = Literal[
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
]
SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")
DECLARED = ("topics", "subscriptions")  # keys of the file that are no settings: service/cli/declarations.py
KEY_ALGORITHMS = tuple(name for name in get_args(JwtAlgorithm) if name not in SECRET_ALGORITHMS)

CLAUDE_MODEL, OPENAI_MODEL = "claude-sonnet-5", "gpt-5.4-mini"
CLAUDE_PREFIX = "claude"  # with keys of both providers it tells whose model MODEL_NAME is

# Patterns in the error messages of msgspec, and the plain words that replace them.
PLAIN_WORDS = (
    (r"`str` matching regex '\^\[!.*|`str` of length .*", "at least 32 printable characters without spaces"),
    (r"`str` matching regex .*", f"names of up to {MAX_QUEUE_NAME_CHARS} letters a to z, digits and _, a letter first"),
    (r"`array` of length >= 1", "at least one name"),
    (r"`int`", "a whole number"),
    (r"`float`", "a number"),
    (r"`str`", "a text"),
    (r"`bool`", "yes or no"),
    (r"`array`", "a list"),
    (r"`object`", "a mapping"),
    (r"`null`", "nothing"),
    (r" >= (\d+)(\.0)?$", r", at least \1"),
    (r" <= (\d+)(\.0)?$", r", at most \1"),
    (r" > (\d+)(\.0)?$", r" above \1"),
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Every setting with its default, and its unit in the name or in a comment."""

    database_url: str | None = None  # unset: a private PostgreSQL under treadle_home
    listen_database_url: str | None = None  # a direct address for LISTEN where database_url is that of a pooler
    database_pooler: Literal["none", "transaction"] = "none"
    treadle_home: Path = Path(".treadle")

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    allowed_hosts: tuple[str, ...] = ()  # names by which the API may be addressed; unset: host, and names of loopback
    cors_origins: tuple[str, ...] = ()  # whose pages may use the API, besides its own
    trusted_proxies: tuple[str, ...] = ()  # addresses and networks whose X-Forwarded-For is believed
    # Of one address and of one key, in each API process. Unset: 1,000; none on loopback without trusted_proxies.
    client_requests_per_second: Positive | None = None
    client_open_streams: AtLeastOne | None = None  # and sockets
    auth: Literal["auto", "required", "off"] = "auto"  # auto: off where HOST is of the loopback, else required
    treadle_key: Secret | None = None  # a key with all scopes of the tenant `default`, beside those in the database
    treadle_key_file: Path | None = None  # a file with that key

    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_jwks: str | None = None  # the URL or the path of the issuer's public keys
    jwt_secret: Secret | None = None  # a secret that is shared with the issuer, instead of JWT_JWKS
    jwt_algorithms: tuple[JwtAlgorithm, ...] = ()  # that are accepted; none: those of the kind of the key
    jwt_tenant_claim: str | None = None  # unset: the tenant is `default`
    jwt_subject_claim: str = "sub"  # none: a JWT sees what all subjects of its tenant own
    jwt_scope_claim: str = "scope"

    metrics_port: Annotated[int, Meta(ge=0, le=65535)] | None = None  # of a worker; the API has a route
    metrics_host: str = "127.0.0.1"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["text", "json"] = "text"

    anthropic_api_key: str | None = None
    anthropic_base_url: str | None = None
    openai_api_key: str | None = None
    openai_base_url: str | None = None
    model_name: str | None = None  # unset: CLAUDE_MODEL, OPENAI_MODEL

    max_queue_size: AtLeastOne = 100_000  # messages of one tenant queued in one queue; soft
    # Limits of tenants that have none of their own (treadle tenants limit); read by treadle migrate. Unset: none.
    tenant_queued: AtLeastOne | None = None  # messages
    tenant_running: AtLeastOne | None = None  # messages, on all workers together
    tenant_per_minute: AtLeastOne | None = None  # messages submitted
    tenant_bytes_per_day: AtLeastOne | None = None  # of messages, records, metadata, answers and schemas, in a UTC day
    tenant_store_bytes: AtLeastOne | None = None  # in all stores together; unset: 10 GB
    max_message_chars: AtLeastOne = 100_000
    max_body_bytes: AtLeastOne = 10_000_000
    max_event_bytes: AtLeastOne = 1_000_000
    max_result_bytes: AtLeastOne = 10_000_000
    keepalive_interval: Positive = 15.0  # seconds between comments on a silent stream
    connection_idle_timeout: Positive = 75.0  # seconds without a request; must be longer than that of a proxy before it

    queues: Annotated[tuple[QueueName, ...], Meta(min_length=1)] = ("default",)  # that a worker claims from
    tenants: tuple[TenantName, ...] = ()  # whose messages a worker claims; empty: those of all
    workers: Annotated[int, Meta(ge=0, le=1_000)] = 1  # worker processes that `up` runs
    worker_concurrency: AtLeastOne = 100  # messages at once in one worker
    webhook_concurrency: Annotated[int, Meta(ge=0)] = 50  # deliveries at once in one worker, beside its messages
    webhook_networks: tuple[str, ...] = ()  # to which webhooks may go although they are not public
    webhook_http: bool = False  # whether webhooks may go to http:// as well
    agents: tuple[str, ...] = ()  # modules with @agent functions
    agent_templates: Path | None = None  # a YAML file of agents
    default_agent: AgentName | None = None  # of messages that name none; unset: claude, else openai, else echo

    processing_timeout: Positive = 60.0  # seconds for one attempt
    max_attempts: AtLeastOne = 3  # failures until a message is dead-lettered
    max_losses: AtLeastOne = 3  # workers lost until a message is dead-lettered
    retry_base_seconds: Positive = 1.0
    retry_max_seconds: Positive = 300.0
    overload_patience: Positive = 1800.0  # seconds that a message waits for an overloaded service without a failure

    heartbeat_interval: Positive = 2.0  # seconds
    worker_timeout: Positive = 10.0  # seconds of silence after which a worker counts as lost
    poll_interval: Positive = 1.0  # seconds between two looks for work, also without a hint
    shutdown_grace: Positive = 30.0  # seconds that a stopping worker gives its attempts to end

    retention_hours: Positive = 168.0
    dead_letter_retention_hours: Positive = 720.0
    audit_retention_hours: Positive = 8760.0  # of who changed access, or stopped, repeated or deleted work

    @property
    def needs_auth(self) -> bool:
        """Whether clients must show a key or a token."""
        return self.auth == "required" or (self.auth == "auto" and not hosts.is_loopback(self.host))

    @property
    def claude_model(self) -> str:
        """The model of agents that ask Anthropic and name none."""
        other = self.openai_api_key is not None and not (self.model_name or "").startswith(CLAUDE_PREFIX)
        return CLAUDE_MODEL if self.model_name is None or other else self.model_name

    @property
    def openai_model(self) -> str:
        """The model of agents that ask an API of OpenAI's kind and name none."""
        other = self.anthropic_api_key is not None and (self.model_name or "").startswith(CLAUDE_PREFIX)
        return OPENAI_MODEL if self.model_name is None or other else self.model_name

    @property
    def accepted_jwt_algorithms(self) -> tuple[str, ...]:
        return self.jwt_algorithms or (SECRET_ALGORITHMS if self.jwt_secret else KEY_ALGORITHMS)


def load(environ: Mapping[str, str]) -> Settings:
    """Read the settings; raises ConfigError with one sentence naming the setting at fault."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(Settings)}
    names = set(defaults)
    values: dict[str, Any] = _from_file(environ.get("TREADLE_CONFIG"), names)
    values |= {name: environ[name.upper()] for name in names if environ.get(name.upper())}
    for name, default in defaults.items():
        if isinstance(default, tuple) and isinstance(values.get(name), str):  # a list, separated by commas
            values[name] = [part.strip() for part in values[name].split(",") if part.strip()]
    if isinstance(values.get("log_level"), str):
        values["log_level"] = values["log_level"].lower()
    try:
        settings = msgspec.convert(values, Settings, strict=False, dec_hook=_decode_path)
    except msgspec.ValidationError as error:
        place, reason = explain_misfit(error, Settings)
        raise ConfigError(f"{place.partition('[')[0].upper()}: {reason}.") from None
    if settings.worker_timeout < 2 * settings.heartbeat_interval:
        raise ConfigError(
            "WORKER_TIMEOUT: Expected at least twice HEARTBEAT_INTERVAL, or living workers count as lost."
        )
    if WEBHOOK_QUEUE in settings.queues:
        raise ConfigError(f"QUEUES: leave {WEBHOOK_QUEUE} out; WEBHOOK_CONCURRENCY says whether a worker has it.")
    outbound_filter.parse_networks(settings.webhook_networks)
    hosts.check_settings(settings.allowed_hosts, settings.cors_origins, settings.trusted_proxies)
    for name in ("database_url", "listen_database_url"):
        if url := getattr(settings, name):
            database_address.parse(url, name.upper())
    for name, example in (("anthropic", "https://api.anthropic.com"), ("openai", "https://api.openai.com/v1")):
        url = getattr(settings, f"{name}_base_url")
        if url and not outbound.is_http_url(url):
            raise ConfigError(f"{name.upper()}_BASE_URL: Expected an address such as {example}.")
    if settings.database_pooler == "transaction" and settings.listen_database_url is None:
        # LISTEN and a worker's advisory lock belong to a session, which such a pooler does not keep.
        raise ConfigError(
            "LISTEN_DATABASE_URL: Expected an address without the pooler where DATABASE_POOLER is transaction."
        )
    return settings


def explain_misfit(error: msgspec.ValidationError, kind: type[msgspec.Struct]) -> tuple[str, str]:
    """The place in a Struct of this kind that does not fit, such as `queues[0]`; and the reason in plain words."""
    reason, _, path = str(error).partition(" - at `$.")
    place = path.rstrip("`")
    if choices := get_args(get_type_hints(kind).get(place)):
        reason = reason.replace("Invalid enum value", f"Expected one of {', '.join(map(str, choices))}, got")
    for pattern, words in PLAIN_WORDS:
        reason = re.sub(pattern, words, reason)
    return place, reason


def read_file(path: str) -> dict[str, Any]:
    """The keys of the file that TREADLE_CONFIG names, in lower case; raises ConfigError."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError(f"TREADLE_CONFIG: {path} cannot be read: {' '.join(str(error).split())}.") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"TREADLE_CONFIG: {path} is not a mapping of settings.")
    return {str(name).lower(): value for name, value in content.items()}


def line_of(path: str, *keys: str) -> int:
    """The line of the file at which the value below these keys begins."""
    node = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = 1
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = [pair for pair in pairs if key.lower() in _readings(pair[0])]
        if not found:
            break
        name, node = found[-1]
        line = name.start_mark.line + 1
    return line


def _readings(name: yaml.Node) -> set[str]:
    """A key as it stands in the file, and as YAML reads it (`on`: True), in lower case."""
    text = str(name.value)
    return {text.lower(), str(yaml.safe_load(text)).lower() if isinstance(name, yaml.ScalarNode) else ""}


def _from_file(path: str | None, names: set[str]) -> dict[str, Any]:
    if not path:
        return {}
    values = {name: value for name, value in read_file(path).items() if name not in DECLARED}
    if unknown := sorted(values.keys() - names):
        raise ConfigError(f"TREADLE_CONFIG: {path} names the unknown setting {unknown[0].upper()}.")
    return values


def _decode_path(kind: type, value: object) -> object:
    if kind is not Path or not isinstance(value, str):
        raise TypeError("Expected a path")
    return Path(value)
