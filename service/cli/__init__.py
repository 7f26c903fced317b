"""The command `treadle`: it reads the settings, and each subcommand builds and runs the parts that it needs."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import click

from service import config, logs
from service.cli import act, env_file, init, keys, look, operate, run, talk
from service.cli.audit import audit
from service.cli.plan import plan
from service.cli.process import lose_sentence, one_sentence_per_error, open_standard_streams
from service.cli.schemas import schemas
from service.cli.subscriptions import subscriptions
from service.cli.tenants import tenants
from service.cli.topics import topics
from service.cli.webhooks import webhooks


class _Commands(click.Group):
    """Errors are one sentence on stderr and an exit code (service.cli.process); commands are listed as they were
    added."""

    _exit_code = os.EX_IOERR  # of the sentence that click writes when the command has ended

    def main(self, *args: Any, **kwargs: Any) -> Any:
        open_standard_streams()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            lose_sentence(error, self._exit_code)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with self._noted_code(), one_sentence_per_error():  # of --help
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with self._noted_code(), one_sentence_per_error(_Hint(ctx)):
            return super().invoke(ctx)

    @contextlib.contextmanager
    def _noted_code(self) -> Iterator[None]:
        try:
            yield
        except click.ClickException as error:
            self._exit_code = error.exit_code
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)


class _Hint:
    """What to look at where PostgreSQL is away; the settings are read only while the command runs."""

    def __init__(self, ctx: click.Context) -> None:
        self._ctx = ctx

    def __str__(self) -> str:
        settings = self._ctx.obj
        private = settings is not None and settings.database_url is None
        return f" Does treadle up run in {settings.treadle_home}?" if private else ""


@click.group("treadle", cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="treadle")
@click.pass_context
def main(ctx: click.Context) -> None:
    """Treadle, a durable queue service for AI agents.

    Settings come from the environment, from the file .env of this folder, or from a YAML file named by TREADLE_CONFIG.
    Without DATABASE_URL, a private PostgreSQL under TREADLE_HOME (.treadle) is used.

    \b
    Examples:
      treadle init my-project          write a first agent, with its test
      treadle up                       run everything on this machine
      treadle send "Hello" --follow    submit a message and watch the answer
      treadle psql -c "table treadle.queue_overview"
    """
    env_file.read()
    settings = config.load(os.environ)
    logs.configure(settings.log_level, settings.log_format)
    ctx.obj = settings


# In the order in which one needs them; `treadle --help` keeps it.
for command in (
    init.init,
    *(run.up, run.serve, run.work, run.migrate),
    *(operate.check, operate.dsn, operate.psql),
    *(talk.send, talk.tail, talk.explain),
    *(look.messages, look.stats, look.top, look.agents, look.workers, look.instances),
    *(act.cancel, act.redrive, act.retry, act.pause, act.resume),
    keys.keys,
    *(operate.queues, operate.threads, operate.dead_letters, operate.input),
    topics,
    subscriptions,
    schemas,
    webhooks,
    tenants,
    audit,
    plan,
):
    main.add_command(command)
