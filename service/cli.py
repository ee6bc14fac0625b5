"""The `millrace` command."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from flask import Flask
from sqlalchemy import RowMapping
from sqlalchemy.exc import OperationalError

from deploy.local.commands import demo, down, status, up
from deploy.local.folder import DEFAULT_FOLDER
from deploy.local.program import program
from deploy.local.stack_settings import NoSettings, settings_for_commands
from service.accounts.keys import create_key, list_keys, revoke_key
from service.accounts.scopes import TENANT_SCOPES, Scope
from service.app import create_app
from service.config import BadSetting
from service.extensions import db
from service.jobs.integrity import check_integrity, is_sound
from service.jobs.rules import Kind, Rate, UnknownTarget, limit, list_rules, pause, resume
from service.jobs.types import BadJobType, registry
from service.queues import Queue


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Millrace: asynchronous jobs over HTTP. A job answered with 2xx is never lost and never takes effect twice."""


for command in (up, down, status, demo):
    cli.add_command(command)


STACK_FOLDER = "stack_folder"
of_stack = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    expose_value=False,
    callback=lambda context, _option, folder: context.meta.update({STACK_FOLDER: folder}),
    help="Data folder of the running stack that is meant. Without it the settings are those of the environment, or "
    f"those of the stack on ./{DEFAULT_FOLDER}.",
)
"""Of every command that works on an installation: which one."""


@contextmanager
def service() -> Iterator[Flask]:
    """The service's app context, with the settings of the installation that the user means.

    Its connections are closed at the end.
    """
    try:
        settings = settings_for_commands(click.get_current_context().meta.get(STACK_FOLDER))
    except NoSettings as error:
        raise click.ClickException(str(error)) from None
    app = create_app(settings, role="cli")
    with app.app_context():
        try:
            yield app
        except OperationalError as error:
            reason = str(error.orig).strip().partition("\n")[0]
            raise click.ClickException(f"The database does not answer: {reason}") from None
        finally:
            db.session.remove()
            db.engine.dispose()


@cli.group()
def key() -> None:
    """API keys: make, list, revoke."""


@key.command("create")
@of_stack
@click.option("--tenant", required=True, help="The tenant's name; made if there is none of that name.")
@click.option("--name", default="default", show_default=True, help="What the key is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What the key may do; repeat for several. Everything of the tenant, if none is given.",
)
@click.option("--days", type=click.IntRange(1, 36_500), help="Expires after so many days; never, if not given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def create(tenant: str, name: str, scopes: tuple[str, ...], days: int | None, *, as_json: bool) -> None:
    """Make a key and print it. It is shown this once and stored as a hash."""
    expires_at = datetime.now(UTC) + timedelta(days=days) if days else None
    with service():
        made = create_key(
            tenant, name=name, scopes=[Scope(scope) for scope in scopes] or TENANT_SCOPES, expires_at=expires_at
        )
    if as_json:
        click.echo(
            json.dumps({"id": str(made.id), "key": made.key, "tenant": tenant, "tenant_id": str(made.tenant_id)})
        )
    else:
        click.echo(made.key)
        click.echo("Keep it: it is not shown again.", err=True)


@key.command("list")
@of_stack
@click.option("--tenant", required=True, help="The tenant's name.")
def list_(tenant: str) -> None:
    """List a tenant's keys, without their secrets."""
    with service():
        keys = list_keys(tenant)
    for row in keys:
        is_over = row["expires_at"] is not None and row["expires_at"] <= datetime.now(UTC)
        state = "revoked" if row["revoked_at"] else "expired" if is_over else "active"
        used = f"last used {row['last_used_at']:%Y-%m-%d %H:%M}" if row["last_used_at"] else "never used"
        click.echo(f"mr_{row['prefix']}_…  {row['name']}  {state}  {used}  {' '.join(row['scopes'])}")


@key.command("revoke")
@of_stack
@click.argument("key_or_prefix", metavar="PREFIX")
def revoke(key_or_prefix: str) -> None:
    """Make a key useless at once. PREFIX is what `key list` shows, mr_…; the whole key does as well."""
    prefix = key_or_prefix.removesuffix("…").removeprefix("mr_").partition("_")[0]
    with service():
        if not revoke_key(prefix):
            raise click.ClickException(
                f"There is no active key mr_{prefix}_…; `{program()} key list --tenant NAME` shows them."
            )
    click.echo(f"Revoked mr_{prefix}_…")


@cli.command()
@of_stack
@click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
def doctor(*, as_json: bool) -> None:
    """Report whether everything is as it must be; exits with 1 if something is broken."""
    with service() as app:
        lines = check_integrity(app.extensions["celery"])
    if as_json:
        click.echo(json.dumps([line.as_dict() for line in lines], indent=2))
    else:
        for line in lines:
            color = {"ok": "green", "warning": "yellow", "broken": "red"}.get(line.verdict, "white")
            click.echo(f"{click.style(line.verdict, fg=color):<16} {line.name}: {line.found}")
            if line.verdict != "ok":
                click.echo(f"         {line.meaning} {line.to_do}")
    if not is_sound(lines):
        sys.exit(1)


@cli.group()
def rule() -> None:
    """Steer what starts: pause queues and job types, limit how many run at a time and how often one starts."""


TARGET = (click.argument("kind", type=click.Choice(["queue", "type"])), click.argument("name"))


def with_target(command: Callable[..., None]) -> Callable[..., None]:
    """Add the arguments KIND and NAME."""
    for argument in reversed(TARGET):
        command = argument(command)
    return command


@contextmanager
def steering() -> Iterator[None]:
    """An app context; an unknown queue or type becomes one clear line."""
    with service():
        try:
            yield
        except UnknownTarget as error:
            queues, types = ", ".join(Queue), ", ".join(known.name for known in registry)
            raise click.ClickException(
                f"There is no queue or job type {error}. Queues: {queues}. Job types: {types}."
            ) from None


@rule.command("list")
@of_stack
def list_rules_() -> None:
    """List the rules that are in force."""
    with steering():
        lines = [f"{found['kind']} {found['name']}: {words}" for found in list_rules() if (words := in_words(found))]
    click.echo("\n".join(lines) or f"None yet. `{program()} rule pause queue bulk` would make one.")


def in_words(found: RowMapping) -> str:
    """What a rule holds back; nothing, when all of it was lifted."""
    parts = ["paused"] if found["paused_at"] else []
    parts += [f"at most {found['max_running']} at a time"] if found["max_running"] else []
    parts += [f"at most {found['rate_count']} per {found['rate_seconds']:g} s"] if found["rate_count"] else []
    return ", ".join(parts)


def say_rule(kind: Kind, name: str) -> None:
    """The rule as it now is, for whoever has just changed it."""
    words = [in_words(found) for found in list_rules() if (found["kind"], found["name"]) == (kind, name)]
    click.echo(f"{kind} {name}: {''.join(words) or 'no rule holds it back'}")


@rule.command("pause")
@of_stack
@with_target
def pause_(kind: Kind, name: str) -> None:
    """Start no more jobs of it until it is resumed; running ones go on."""
    with steering():
        pause(kind, name)
        say_rule(kind, name)


@rule.command("resume")
@of_stack
@with_target
def resume_(kind: Kind, name: str) -> None:
    """Start jobs of it again."""
    with steering():
        resume(kind, name)
        say_rule(kind, name)


@rule.command("limit")
@of_stack
@with_target
@click.option("--max-running", type=click.IntRange(1), help="Most jobs at a time, over all workers; none: no bound.")
@click.option("--rate", nargs=2, type=(click.IntRange(1), click.FloatRange(0, min_open=True)), help="COUNT SECONDS")
def limit_(kind: Kind, name: str, max_running: int | None, rate: tuple[int, float] | None) -> None:
    """Set the limits of a queue or a job type; what is not given is lifted. A rate is for job types only."""
    if rate and kind == "queue":
        raise click.UsageError("A rate is for job types only.")
    with steering():
        limit(kind, name, max_running=max_running, rate=Rate(*rate) if rate else None)
        say_rule(kind, name)


@cli.group()
def openapi() -> None:
    """The OpenAPI document."""


@openapi.command("write")
@click.argument("path", type=click.Path(dir_okay=False, path_type=Path), default=Path("docs/openapi.json"))
@click.option("--check", is_flag=True, help="Write nothing; fail if the file is not up to date.")
def write(path: Path, *, check: bool) -> None:
    """Write the document to PATH (docs/openapi.json). Needs no settings and no servers."""
    settings = {
        "DATABASE_URL": "postgresql+psycopg://nobody@127.0.0.1/none",
        "BROKER_URL": "redis://127.0.0.1/0",
        "SECRET_KEY": "x" * 32,
        "ARTIFACT_DIR": "/nonexistent",
    }
    document = create_app(settings, role="cli").extensions["openapi"].to_dict()
    text = json.dumps(document, indent=2, ensure_ascii=False, sort_keys=True) + "\n"
    if not check:
        path.write_text(text)
    elif not path.is_file() or path.read_text() != text:
        raise click.ClickException(f"{path} is not up to date. Write it anew: millrace openapi write")


def main() -> None:
    """Entry point of the `millrace` command."""
    try:
        cli()
    except (BadSetting, BadJobType) as error:
        click.echo(f"millrace: {error}", err=True)
        sys.exit(2)
