"""The command `treadle`, as a person types it: what it explains, and what it says where it cannot do what was meant."""

import re
from collections.abc import Iterator

import click
import pytest

from service.cli import main
from tests.support.api_answers import UNKNOWN_ID
from tests.support.cli_runner import Cli, error_sentence
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


async def test_the_commands_are_listed_in_the_order_in_which_one_needs_them(cli_without_database: Cli) -> None:
    listed = re.findall(
        r"^  ([a-z-]+)  ", (await cli_without_database("--help")).stdout.partition("Commands:")[2], re.MULTILINE
    )
    assert listed == list(main.commands)
    assert listed[0] == "up"


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
async def test_what_cannot_be_meant_is_a_usage_error(arguments: list[str], cli_without_database: Cli) -> None:
    result = await cli_without_database(*arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["check"], ["migrate"], ["send", "x"], ["queues"], ["tail", UNKNOWN_ID]], ids=lambda value: value[0]
)
async def test_a_database_that_is_not_there_is_one_sentence(arguments: list[str], cli: Cli, dsn: str) -> None:
    """And an exit code of its own where it is a job that is to be run again later."""
    done = await cli(*arguments, DATABASE_URL=with_closed_port(dsn))
    exit_code = 75 if arguments == ["migrate"] else 1
    assert error_sentence(done, exit_code).startswith("PostgreSQL cannot be reached: ")


async def test_a_wrong_setting_is_one_sentence(cli_without_database: Cli) -> None:
    assert (
        error_sentence(await cli_without_database("check", PORT="http")) == "PORT: Expected a whole number, got a text."
    )
