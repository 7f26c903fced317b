"""The command `treadle webhooks`."""

import json

from service.db.pool import Connection
from tests.support.cli_runner import Cli

URL = "https://example.com/hook"


async def test_a_webhook_is_created_changed_rotated_tested_and_deleted(cli: Cli, sql: Connection) -> None:
    created = await cli("webhooks", "create", URL, "--events", "message.failed", "--agents", "echo,poet")
    webhook_id, secret = created.stdout.split()
    assert (secret[:6], created.stderr) == ("whsec_", "Keep the secret: it is shown this once.\n")
    listed = await cli("webhooks", "list")
    assert webhook_id in listed.stdout
    assert secret not in listed.stdout
    [row] = json.loads((await cli("webhooks", "list", "--json")).stdout)
    assert (row["events"], row["agents"], row["enabled"]) == (["message.failed"], ["echo", "poet"], True)
    assert json.loads((await cli("webhooks", "list", "--tenant", "acme", "--json")).stdout) == []
    changed = await cli("webhooks", "change", webhook_id, "--disable", "--events", "message.completed")
    assert changed.stdout == f"The webhook {webhook_id} is disabled.\n"

    rotated = json.loads((await cli("webhooks", "rotate", webhook_id, "--grace", "2h", "--json")).stdout)
    assert rotated["secret"] != secret
    assert rotated["former_until"] is not None
    tested = (await cli("webhooks", "test", webhook_id)).stdout.strip()
    assert (
        await sql.fetchval("select agent from treadle.messages where message_id = $1::text::uuid", tested) == "webhook"
    )
    callbacks = (await cli("webhooks", "secret")).stdout
    assert (await cli("webhooks", "secret")).stdout == callbacks
    assert (await cli("webhooks", "secret", "--rotate")).stdout != callbacks

    assert (await cli("webhooks", "delete", webhook_id)).stdout == f"The webhook {webhook_id} is deleted.\n"
    assert (await cli("webhooks", "delete", webhook_id)).stderr == f"Error: There is no webhook {webhook_id}.\n"
    refused = await cli("webhooks", "create", "http://example.com/")
    assert (refused.exit_code, "https://" in refused.stderr) == (2, True)
    assert "events must be a list of" in (await cli("webhooks", "create", URL, "--events", "x")).stderr
