"""The `millrace` command."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from flask import Flask

from deploy.local.commands import demo, down, status, up
from service.accounts.keys import create_key, list_keys, revoke_key
from service.accounts.scopes import TENANT_SCOPES, Scope
from service.app import create_app
from service.config import BadSetting
from service.extensions import db
from service.jobs.integrity import check_integrity, is_sound
from service.jobs.rules import Kind, Rate, UnknownTarget, limit, list_rules, pause, resume
from service.jobs.types import BadJobType


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Millrace: asynchronous jobs over HTTP. A job answered with 2xx is never lost and never takes effect twice."""


for command in (up, down, status, demo):
    cli.add_command(command)


@contextmanager
def service() -> Iterator[Flask]:
    """The service's app context, with the settings of the environment; its connections are closed at the end."""
    app = create_app(role="cli")
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()


@cli.group()
def key() -> None:
    """API keys: make, list, revoke. Needs the service's settings (MILLRACE_DATABASE_URL and so on)."""


@key.command("create")
@click.option("--tenant", required=True, help="The tenant's name; made if there is none of that name.")
@click.option("--name", default="default", show_default=True, help="What the key is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What the key may do; repeat for several. Everything of the tenant, if none is given.",
)
@click.option("--days", type=click.IntRange(1), help="Expires after so many days; never, if not given.")
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
@click.option("--tenant", required=True, help="The tenant's name.")
def list_(tenant: str) -> None:
    """List a tenant's keys, without their secrets."""
    with service():
        keys = list_keys(tenant)
    for row in keys:
        state = "revoked" if row["revoked_at"] else "active"
        used = f"last used {row['last_used_at']:%Y-%m-%d %H:%M}" if row["last_used_at"] else "never used"
        click.echo(f"mr_{row['prefix']}_…  {row['name']}  {state}  {used}  {' '.join(row['scopes'])}")


@key.command("revoke")
@click.argument("prefix")
def revoke(prefix: str) -> None:
    """Make a key useless at once. PREFIX is the part between the first two underscores."""
    with service():
        if not revoke_key(prefix.removeprefix("mr_").partition("_")[0]):
            raise click.ClickException("There is no active key with this prefix. See: millrace key list --tenant NAME")
    click.echo("Revoked.")


@cli.command()
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
            raise click.ClickException(f"There is no queue or job type {error}.") from None


@rule.command("list")
def list_rules_() -> None:
    """List the rules that are in force."""
    with steering():
        for found in list_rules():
            parts = ["paused"] if found["paused_at"] else []
            parts += [f"at most {found['max_running']} at a time"] if found["max_running"] else []
            parts += [f"at most {found['rate_count']} per {found['rate_seconds']:g} s"] if found["rate_count"] else []
            if parts:
                click.echo(f"{found['kind']} {found['name']}: {', '.join(parts)}")


@rule.command("pause")
@with_target
def pause_(kind: Kind, name: str) -> None:
    """Start no more jobs of it until it is resumed; running ones go on."""
    with steering():
        pause(kind, name)


@rule.command("resume")
@with_target
def resume_(kind: Kind, name: str) -> None:
    """Start jobs of it again."""
    with steering():
        resume(kind, name)


@rule.command("limit")
@with_target
@click.option("--max-running", type=click.IntRange(1), help="Most jobs at a time, over all workers; none: no bound.")
@click.option("--rate", nargs=2, type=(click.IntRange(1), click.FloatRange(0, min_open=True)), help="COUNT SECONDS")
def limit_(kind: Kind, name: str, max_running: int | None, rate: tuple[int, float] | None) -> None:
    """Set the limits of a queue or a job type; what is not given is lifted. A rate is for job types only."""
    if rate and kind == "queue":
        raise click.UsageError("A rate is for job types only.")
    with steering():
        limit(kind, name, max_running=max_running, rate=Rate(*rate) if rate else None)


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
