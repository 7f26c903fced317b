"""The command `treadle keys`."""

import json
import re

import pytest

from service.access.principal import COMMAND_LINE
from service.access.secrets import parse_key
from service.access.store import KeyStore
from service.db.pool import Connection, Database
from tests.support.cli_runner import Cli


async def test_a_key_is_created_rotated_and_revoked(cli: Cli, database: Database, sql: Connection) -> None:
    store = KeyStore(database)
    created = await cli(
        "keys", "create", "--scope", "submit", "--scope", "read", "--agents", "echo,poet", "--name", "ci"
    )
    key = created.stdout.strip()
    assert re.fullmatch(r"trd_[0-9a-z]{12}_[0-9a-f]{48}", key)
    assert created.stderr == "Keep the key: it is shown this once.\n"
    parsed = parse_key(key)
    assert parsed is not None
    key_id, secret_hash = parsed
    stored = (await store.find([key_id]))[key_id]
    assert stored.scopes == frozenset({"submit", "read"})
    assert (stored.agents, stored.secret_hash) == (("echo", "poet"), secret_hash)

    listed = await cli("keys", "list")
    assert key_id in listed.stdout
    assert key.rpartition("_")[2] not in listed.stdout
    [row] = json.loads((await cli("keys", "list", "--json")).stdout)
    assert (row["name"], row["created_by"], row["expires_at"]) == ("ci", COMMAND_LINE.name, None)
    assert row["created_by"].startswith("command line")
    assert json.loads((await cli("keys", "list", "--tenant", "acme", "--json")).stdout) == []

    rotated = await cli("keys", "rotate", key_id, "--grace", "2h", "--json")
    renewed = json.loads(rotated.stdout)
    assert renewed["key_id"] == key_id
    assert renewed["key"] != key
    left = (await store.find([key_id]))[key_id].former_seconds_left
    assert left is not None
    assert 7000 < left <= 7200

    revoked = await cli("keys", "revoke", key_id)
    assert (revoked.exit_code, revoked.stdout) == (0, f"The key {key_id} is revoked.\n")
    assert (await store.find([key_id]))[key_id].revoked
    refused = await cli("keys", "rotate", key_id)
    assert refused.stderr == f"Error: The key '{key_id}' is revoked: create another one.\n"
    assert (await cli("keys", "revoke", "missing")).stderr == "Error: There is no key 'missing'.\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "Missing option '--scope'"),
        (("--scope", "nonsense"), "scopes must be a list of"),
        (("--scope", ""), "scopes must be a list"),
        (("--scope", "read", "--expires", "soon"), "no duration"),
        (("--scope", "read", "--expires", "99999999d"), "more than 36500d"),  # dates end before it
        (("--scope", "read", "--expires", "9999d"), "expires_in must be a number of seconds"),
        (("--scope", "read", "--name", "x" * 101), "name must be a text"),
    ],
)
async def test_wrong_options_are_refused(arguments: tuple[str, ...], said: str, cli: Cli) -> None:
    result = await cli("keys", "create", *arguments)
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


async def test_a_key_ends_after_its_duration(cli: Cli, database: Database) -> None:
    made = json.loads((await cli("keys", "create", "--scope", "read", "--expires", "90d", "--json")).stdout)
    left = (await KeyStore(database).find([made["key_id"]]))[made["key_id"]].seconds_left
    assert left is not None
    assert 89.9 * 86_400 < left <= 90 * 86_400
