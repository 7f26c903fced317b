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

import re
from collections.abc import Callable, Collection, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from service.access.principal import COMMAND_LINE, Principal
from service.config import line_of, read_file
from service.db.pages import read_all
from service.errors import ConfigError, NotFound, Refused
from service.json_input import convert, same_json
from service.limits import (
    START_RULE,
    SUBSCRIPTION_NAME_PATTERN,
    SUBSCRIPTION_NAME_RULE,
    TOPIC_NAME_PATTERN,
    TOPIC_NAME_RULE,
    TOPIC_PATTERN_PATTERN,
)

if TYPE_CHECKING:
    from service.subscriptions.model import NewSubscription
    from service.topics.model import NewTopic

Declared = TypeVar("Declared")


class Declarations(msgspec.Struct, frozen=True):
    path: str | None
    topics: dict[str, "NewTopic"]
    subscriptions: dict[str, "NewSubscription"]


def read(path: str | None) -> Declarations:
    """What the file declares. Raises ConfigError with one sentence that names the entry at fault."""
    from service.subscriptions.model import NewSubscription
    from service.topics.model import NewTopic

    content = read_file(path) if path else {}
    return Declarations(
        path,
        _entries(path, content, "topic", NewTopic, _problem_of_topic),
        _entries(path, content, "subscription", NewSubscription, _problem_of_subscription),
    )


def _entries(
    path: str | None,
    content: Mapping[str, Any],
    noun: str,
    kind: type[Declared],
    problem_of: Callable[[str, Declared], str | None],
) -> dict[str, Declared]:
    key = f"{noun}s"
    entries = content.get(key)
    if entries is None:
        return {}
    if not isinstance(entries, dict):
        raise ConfigError(f"TREADLE_CONFIG: {key} of {path} must be a mapping of names.")
    found = {}
    for name, entry in entries.items():
        if not isinstance(name, str):  # such as `on`, or 010
            raise _at_fault(path, noun, str(name), "a name must be a text: put it into quotes.")
        try:
            declared = convert(_plain({} if entry is None else entry), kind, f"{noun} {name!r}")
        except Refused as error:
            raise _at_fault(path, noun, name, str(error)) from None
        if problem := problem_of(name.partition("/")[2] or name, declared):
            raise _at_fault(path, noun, name, problem)
        found[name] = declared
    return found


def _at_fault(path: str | None, noun: str, name: str, problem: str) -> ConfigError:
    line = line_of(path, f"{noun}s", name) if path else 0
    return ConfigError(f"TREADLE_CONFIG: the {noun} {name!r} in line {line} of {path}: {problem}")


def _problem_of_topic(name: str, _: "NewTopic") -> str | None:
    return None if re.match(TOPIC_NAME_PATTERN, name) else f"a name is {TOPIC_NAME_RULE}."


def _problem_of_subscription(name: str, declared: "NewSubscription") -> str | None:
    topics = [declared.topics] if isinstance(declared.topics, str) else declared.topics
    if not re.match(SUBSCRIPTION_NAME_PATTERN, name):
        return f"a name is {SUBSCRIPTION_NAME_RULE}."
    if not all(re.match(TOPIC_PATTERN_PATTERN, topic) for topic in topics):
        return "a pattern of topics is words separated by dots; * stands for one word and # for any number of them."
    if not _is_start(str(declared.start)):
        return f"from must be {START_RULE}."
    return None


def _is_start(text: str) -> bool:
    if text in {"earliest", "latest"} or (text.isascii() and text.isdecimal()):
        return True
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


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
    tenants = {found.tenant for found in await read_all(TenantStore(database).page)}
    entries: list[tuple[str, Any, str, Any, dict[str, Any]]] = [
        ("topic", topics, name, each, msgspec.structs.asdict(each)) for name, each in declared.topics.items()
    ]
    entries += [
        ("subscription", subscriptions, name, each, _stored(each)) for name, each in declared.subscriptions.items()
    ]
    for noun, store, full_name, entry, wanted in entries:
        principal, name = _owner(full_name, tenants)
        line = await _difference(f"{noun} {full_name}", store, principal, name, wanted)
        if line is not None:
            lines.append(line)
            if not dry_run:
                try:
                    await store.declare(principal, name, entry)
                except Refused as error:
                    raise _at_fault(declared.path, noun, full_name, str(error)) from None
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
        if not same_json(_decoded(getattr(found, field)), _decoded(value))
    ]
    return f"{what}: change {', '.join(changes)}" if changes else None


def _text(value: Any) -> str:
    """As JSON, of which the stored one may have other white space and another order of keys."""
    return msgspec.json.encode(_decoded(value), order="sorted").decode()


def _decoded(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))
