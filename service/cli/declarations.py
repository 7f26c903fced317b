"""Topics and subscriptions that the file of TREADLE_CONFIG declares; `treadle migrate` and `treadle up` apply them:

    topics:
      plan.in: {retention_hours: 24}
      plan.out:
    subscriptions:
      planner: {topics: plan.in, agent: planner, from: earliest}

The values are those of PUT /topics/{topic} and PUT /subscriptions/{name}; a field that is left out has its default.
A name is of the tenant default, unless it begins with another one and a slash: `acme/plan.in`.
What the file does not name stays as it is.
"""

from collections.abc import Collection, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from service.access.principal import COMMAND_LINE, Principal
from service.config import read_file
from service.errors import ConfigError, NotFound, Unprocessable
from service.json_input import convert

if TYPE_CHECKING:
    from service.subscriptions.model import NewSubscription
    from service.topics.model import NewTopic

Declared = TypeVar("Declared")


class Declarations(msgspec.Struct, frozen=True):
    topics: dict[str, "NewTopic"]
    subscriptions: dict[str, "NewSubscription"]


def read(path: str | None) -> Declarations:
    """What the file declares. Raises ConfigError with one sentence that names the entry at fault."""
    from service.subscriptions.model import NewSubscription
    from service.topics.model import NewTopic

    content = read_file(path) if path else {}
    return Declarations(
        _entries(path, content, "topics", "topic", NewTopic),
        _entries(path, content, "subscriptions", "subscription", NewSubscription),
    )


def _entries(
    path: str | None, content: Mapping[str, Any], key: str, noun: str, kind: type[Declared]
) -> dict[str, Declared]:
    entries = content.get(key)
    if entries is None:
        return {}
    if not isinstance(entries, dict):
        raise ConfigError(f"TREADLE_CONFIG: {key} of {path} must be a mapping of names.")
    found = {}
    for name, entry in entries.items():
        try:
            found[str(name)] = convert(_plain({} if entry is None else entry), kind, f"{noun} {name!r}")
        except Unprocessable as error:
            raise ConfigError(f"TREADLE_CONFIG: the {noun} {name!r} of {path}: {error}") from None
    return found


def _plain(value: Any) -> Any:
    """Times as texts, as JSON has them: YAML reads one without quotes as a time."""
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, datetime | date) else value


async def apply(database: Any, declared: Declarations, *, dry_run: bool) -> list[str]:
    """Create and change what differs; returns a line for each change. With `dry_run`, changes nothing."""
    from service.db.notifier import Notifier
    from service.subscriptions.store import SubscriptionStore
    from service.tenants.store import TenantStore
    from service.topics.store import TopicStore

    topics, subscriptions = TopicStore(database, Notifier(database)), SubscriptionStore(database)
    lines = []
    tenants = {found.tenant for found in await TenantStore(database).all()}
    for full_name, topic in declared.topics.items():
        principal, name = _owner(full_name, tenants)
        line = await _difference(f"topic {full_name}", topics, principal, name, msgspec.structs.asdict(topic))
        if line is not None:
            lines.append(line)
            if not dry_run:
                await topics.declare(principal, name, topic)
    for full_name, subscription in declared.subscriptions.items():
        principal, name = _owner(full_name, tenants)
        line = await _difference(f"subscription {full_name}", subscriptions, principal, name, _stored(subscription))
        if line is not None:
            lines.append(line)
            if not dry_run:
                await subscriptions.declare(principal, name, subscription)
    return lines


def _owner(full_name: str, tenants: Collection[str]) -> tuple[Principal, str]:
    """The principal of a declared name, and the name without its tenant. Raises ConfigError for an unknown tenant."""
    tenant, slash, name = full_name.partition("/")
    if not slash:
        return COMMAND_LINE, full_name
    if tenant not in tenants:
        raise ConfigError(
            f"TREADLE_CONFIG: {full_name!r} is of the unknown tenant {tenant!r}: treadle tenants create {tenant}."
        )
    return msgspec.structs.replace(COMMAND_LINE, tenant=tenant), name


def created(declared: Declarations) -> list[str]:
    """The lines for a database that has no topics yet."""
    names = [f"topic {name}" for name in declared.topics]
    return [f"{name}: create" for name in (*names, *(f"subscription {name}" for name in declared.subscriptions))]


def _stored(declared: "NewSubscription") -> dict[str, Any]:
    """The fields of a subscription as the store shows them. Where it begins counts for new ones only."""
    fields = msgspec.structs.asdict(declared)
    del fields["start"]
    if isinstance(declared.topics, str):
        fields["topics"] = [declared.topics]
    if declared.filter is not None:
        fields["filter"] = msgspec.to_builtins(declared.filter)
    return fields


async def _difference(what: str, store: Any, principal: Principal, name: str, wanted: Mapping[str, Any]) -> str | None:
    """One line on how the stored topic or subscription differs; None: it does not."""
    try:
        found = await store.get(principal, name)
    except NotFound:
        return f"{what}: create"
    changes = [
        f"{field} {_text(getattr(found, field))} -> {_text(value)}"
        for field, value in wanted.items()
        if _text(getattr(found, field)) != _text(value)
    ]
    return f"{what}: change {', '.join(changes)}" if changes else None


def _text(value: Any) -> str:
    """As JSON, of which the stored one may have other white space and another order of keys."""
    return msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(value)), order="sorted").decode()
