"""The command `treadle` as a person types it: its help, and its errors."""

import re
from collections.abc import Iterator

import click
import pytest

from service.cli import main
from tests.support.api_answers import UNKNOWN_ID
from tests.support.cli_runner import Cli, error_sentence
from tests.support.documents import README
from tests.support.ports import with_closed_port


def commands(group: click.Group, *above: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*above, name)
        if isinstance(command, click.Group):
            yield from commands(command, *above, name)


@pytest.mark.parametrize("command", [(), *commands(main)], ids=" ".join)
async def test_every_command_explains_itself_with_an_example(
    command: tuple[str, ...], cli_without_database: Cli
) -> None:
    result = await cli_without_database(*command, "--help")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    said = " ".join(result.stdout.split())
    name = " ".join(("treadle", *command))
    assert re.search(rf"^Usage: {name} (\[?[A-Z_]+\]?(\.\.\.)? )+[A-Z][a-z ]+", said), "no explanation"
    assert re.search(rf"Examples?: .*{name}", said), "no example"


def test_the_readme_lists_every_command() -> None:
    _, _, text = README.read_text("utf-8").partition("--help` lists the commands:\n\n")
    table, _, _ = text.partition("\n\n")
    assert sorted(re.findall("`([a-z-]+)`", table)) == sorted(main.commands)


async def test_help_lists_the_commands_in_the_order_of_their_first_use(cli_without_database: Cli) -> None:
    listed = re.findall(
        r"^  ([a-z-]+)  ", (await cli_without_database("--help")).stdout.partition("Commands:")[2], re.MULTILINE
    )
    assert listed == list(main.commands)
    assert listed[:2] == ["init", "up"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["send"],
        ["send", "x", "--priority", "urgent"],
        ["send", "x", "--metadata", "{"],
        ["send", "x", "--metadata", "[1]"],
        ["send", "x", "--no-such-option"],
        ["tail", "no-uuid"],
        ["threads", "--limit", "0"],
        ["dead-letters", "redrive"],
        ["dead-letters", "redrive", "no-uuid"],
    ],
    ids=" ".join,
)
async def test_wrong_arguments_are_a_usage_error(arguments: list[str], cli_without_database: Cli) -> None:
    result = await cli_without_database(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["check"], ["migrate"], ["send", "x"], ["queues"], ["tail", UNKNOWN_ID]], ids=lambda value: value[0]
)
async def test_a_missing_database_is_reported_in_one_sentence(arguments: list[str], cli: Cli, dsn: str) -> None:
    """It has an exit code of its own, so that a job runs the command again later."""
    done = await cli(*arguments, DATABASE_URL=with_closed_port(dsn))
    assert error_sentence(done, 75).startswith("PostgreSQL cannot be reached: ")


async def test_a_wrong_setting_is_reported_in_one_sentence(cli_without_database: Cli) -> None:
    assert (
        error_sentence(await cli_without_database("check", PORT="http")) == "PORT: Expected a whole number, got a text."
    )
