"""The schema registry: subjects, versions, compatibility."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.access.principal import Principal
from service.cli import common, show
from service.config import Settings
from service.db.pages import read_all
from service.schemas.model import LEVELS

if TYPE_CHECKING:
    from service.schemas.model import NewSchema
    from service.schemas.registry import Registry

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _subject(_context: click.Context, _parameter: click.Parameter, subject: str | None) -> str:
    from service.schemas.model import SUBJECT_RULE, is_subject

    if subject is not None and not is_subject(subject):
        raise click.BadParameter(f"a subject has {SUBJECT_RULE}.")
    return subject or ""


@click.group()
def schemas() -> None:
    """Manage schemas: versions of types, by subject.

    \b
    Examples:
      treadle schemas register orders-value order.json
      treadle schemas check orders-value order.json
    """


@schemas.command()
@click.argument("subject", callback=_subject)
@click.argument("file", type=FILE)
@click.option("--reference", "references", multiple=True, metavar="NAME=SUBJECT:VERSION", help="An import.")
@common.of_tenant
@common.as_json
@click.pass_obj
def register(
    settings: Settings, subject: str, file: Path, references: tuple[str, ...], principal: Principal, as_json: bool
) -> None:
    """Make a schema the next version of a subject. To register it again changes nothing.

    FILE is a JSON Schema, a .proto file, or a descriptor set that protoc wrote (--descriptor_set_out).

    \b
    Examples:
      treadle schemas register orders-value order.json
      treadle schemas register plans plan.pb --reference common.proto=common:1
    """
    new = _read(file, references)
    made = _ask(settings, principal, lambda registry, who: registry.register(who, subject, new))
    if as_json:
        show.as_json(made)
    else:
        click.echo(f"{subject} has this schema as version {made.version}, with the id {made.schema_id}.")


@schemas.command("list")
@click.option("--deleted", is_flag=True, help="Also deleted subjects.")
@common.of_tenant
@common.as_json
@click.pass_obj
def list_(settings: Settings, deleted: bool, principal: Principal, as_json: bool) -> None:
    """List the subjects with their newest version.

    \b
    Example:
      treadle schemas list
    """
    found = _ask(
        settings, principal, lambda registry, who: read_all(partial(registry.store.page, who, deleted=deleted))
    )
    columns = {"subject": "subject", "version": "version", "id": "schema_id", "kind": "kind", "deleted": "deleted"}
    show.as_json(found) if as_json else show.table(found, columns, "There are no schemas.", whole=["subject"])


@schemas.command("show")
@click.argument("subject", callback=_subject)
@click.option("--version", type=click.IntRange(1), help="Without it, the newest one.")
@common.of_tenant
@common.as_json
@click.pass_obj
def show_(settings: Settings, subject: str, version: int | None, principal: Principal, as_json: bool) -> None:
    """Print the schema of a version.

    \b
    Examples:
      treadle schemas show orders-value
      treadle schemas show orders-value --version 1 --json
    """
    found = _ask(settings, principal, lambda registry, who: registry.store.version(who, subject, version, deleted=True))
    show.as_json(found) if as_json else click.echo(found.schema)


@schemas.command()
@click.argument("subject", callback=_subject)
@click.argument("file", type=FILE)
@click.option("--reference", "references", multiple=True, metavar="NAME=SUBJECT:VERSION", help="An import.")
@common.of_tenant
@common.as_json
@click.pass_obj
def check(
    settings: Settings, subject: str, file: Path, references: tuple[str, ...], principal: Principal, as_json: bool
) -> None:
    """Say whether a subject allows a schema as its next version; the exit code is 1 if not.

    \b
    Example:
      treadle schemas check orders-value order.json
    """
    new = _read(file, references)
    reasons = _ask(settings, principal, lambda registry, who: registry.check(who, subject, new))
    if as_json:
        show.as_json({"is_compatible": not reasons, "reasons": reasons})
    else:
        click.echo("\n".join(reasons) if reasons else f"{subject} allows this schema.")
    if reasons:
        raise click.exceptions.Exit(1)


@schemas.command()
@click.argument("subject", required=False, callback=_subject)
@click.option("--set", "level", metavar="LEVEL", type=click.Choice(LEVELS, case_sensitive=False), help="A new level.")
@click.option("--reset", is_flag=True, help="Remove the level of this subject: that of all subjects holds.")
@common.of_tenant
@common.as_json
@click.pass_obj
def compatibility(
    settings: Settings, subject: str, level: str | None, reset: bool, principal: Principal, as_json: bool
) -> None:
    """Print or set which changes a subject allows: NONE, BACKWARD, FORWARD, FULL, or the last three with _TRANSITIVE.

    Without a subject, it is the level of all subjects without their own.

    \b
    Examples:
      treadle schemas compatibility orders-value
      treadle schemas compatibility orders-value --set FULL
      treadle schemas compatibility --set FORWARD
    """

    if level is not None and reset:
        raise click.UsageError("Give --set or --reset, not both.")

    async def ask(registry: "Registry", who: Principal) -> str:
        if level is not None or reset:
            value = None if level is None else level.upper()
            await registry.store.set_rule(who, "compatibility", value, subject)
        return await registry.level(who, subject)

    found = _ask(settings, principal, ask)
    show.as_json({"subject": subject or None, "compatibility": found}) if as_json else click.echo(found)


@schemas.command()
@click.argument("subject", callback=_subject)
@click.option("--version", type=click.IntRange(1), help="Only this version.")
@click.option("--permanent", is_flag=True, help="Delete for good, after an ordinary deletion.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@common.of_tenant
@common.as_json
@click.pass_obj
def delete(
    settings: Settings,
    subject: str,
    version: int | None,
    permanent: bool,
    yes: bool,
    principal: Principal,
    as_json: bool,
) -> None:
    """Delete a subject or one of its versions. Readers of old data still find the schema by its id.

    \b
    Examples:
      treadle schemas delete orders-value --version 1 --yes
      treadle schemas delete orders-value --permanent
    """
    if not yes:
        what = subject if version is None else f"version {version} of {subject}"
        click.confirm(f"Delete {what}{' for good' if permanent else ''}?", abort=True)
    found = _ask(settings, principal, lambda registry, who: registry.delete(who, subject, version, permanent=permanent))
    numbers = ", ".join(map(str, found))
    show.as_json({"versions": list(found)}) if as_json else click.echo(f"Deleted of {subject}: {numbers}.")


def _ask(settings: Settings, principal: Principal, question: Any) -> Any:
    from service.schemas.registry import Registry
    from service.schemas.sandboxed.checks import SchemaChecks
    from service.schemas.store import SchemaStore

    async def run(database: Any) -> Any:
        async with SchemaChecks() as checks:
            return await question(Registry(SchemaStore(database), checks), await common.own(database, principal))

    return common.ask(settings, run)


def _read(file: Path, references: tuple[str, ...]) -> "NewSchema":
    from service.schemas.documents import from_file
    from service.schemas.model import Reference

    refs = []
    for text in references:
        name, _, target = text.rpartition("=")
        subject, _, version = target.rpartition(":")
        if not (name and subject and version.isascii() and version.isdecimal()):
            raise click.BadParameter(f"{text!r} is not NAME=SUBJECT:VERSION.", param_hint="--reference")
        refs.append(Reference(name, subject, int(version)))
    return from_file(file.read_bytes(), tuple(refs))
