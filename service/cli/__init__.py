"""The command `treadle`: it reads the settings, and each subcommand builds and runs the parts that it needs."""

import os
from typing import Any

import click

from service import config, logs
from service.cli import operate, run, talk
from service.errors import AddressRejected, TreadleError, Unavailable


class _TryLater(click.ClickException):
    exit_code = os.EX_TEMPFAIL


class _Commands(click.Group):
    """Errors of ours are one sentence on stderr and exit code 1 (75 where a migration is to be tried again later);
    commands are listed as they were added."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TreadleError as error:
            hint = ""
            if isinstance(error, Unavailable) and ctx.obj is not None and ctx.obj.database_url is None:
                hint = f" Does treadle up run in {ctx.obj.treadle_home}?"
            away = isinstance(error, Unavailable) and not isinstance(error, AddressRejected)
            later = away and ctx.invoked_subcommand == "migrate"
            raise (_TryLater if later else click.ClickException)(f"{error}{hint}") from error
        except UnicodeEncodeError as error:
            raise click.ClickException("The arguments must be valid UTF-8.") from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


@click.group("treadle", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="treadle")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Treadle, a durable queue service for AI agents.

    Settings come from the environment, or from a YAML file named by TREADLE_CONFIG. Without DATABASE_URL, a private
    PostgreSQL under TREADLE_HOME (.treadle) is used.

    \b
    Examples:
      treadle up                       run everything on this machine
      treadle send "Hello" --follow    submit a message and watch the answer
      treadle psql -c "table treadle.queue_overview"
    """
    settings = config.load(os.environ)
    logs.configure(settings.log_level, settings.log_format)
    ctx.obj = settings


# In the order in which one needs them; `treadle --help` keeps it.
for command in (
    *(run.up, run.serve, run.work, run.migrate),
    *(operate.check, operate.dsn, operate.psql),
    *(talk.send, talk.tail),
    *(operate.queues, operate.threads, operate.dead_letters, operate.input),
):
    main.add_command(command)
