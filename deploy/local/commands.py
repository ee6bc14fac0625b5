"""`millrace up`, `down`, `status` and `demo`: the stack on one machine."""

import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deploy.local.folder import DEFAULT_FOLDER
from deploy.local.program import program

if TYPE_CHECKING:
    from rich.console import Console

EXIT_FAILED = 1
EXIT_NOT_RUNNING = 3
"""The number that service scripts customarily use for "not running"."""
EXIT_INTERRUPTED = 130

folder_option = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_FOLDER,
    show_default=True,
    help="Data folder; two stacks need two.",
)


@click.command()
@folder_option
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the API; by default 8000, or a free one.")
@click.option("--no-demo", is_flag=True, help="Do not run the main job after the start.")
@click.option("--detach", is_flag=True, help="Return when the stack is ready; `millrace down` stops it.")
@click.option("--quiet", is_flag=True, help="Only tell what happens: no main job, and no keys on the screen.")
def up(folder: Path, port: int | None, *, no_demo: bool, detach: bool, quiet: bool) -> None:
    """Start the whole stack on this machine: PostgreSQL, Redis, API, workers, beat and Flower.

    Runs the main job once on real input, prints URLs, credentials and a curl line, and stays until Ctrl-C. A
    PostgreSQL or Redis whose URL stands in MILLRACE_DATABASE_URL or MILLRACE_BROKER_URL is used instead of one
    of its own.
    """
    # Here and below: the other commands of `millrace` need not load what only a running stack needs.
    from deploy.local.demo import DemoFailure, run_demo  # noqa: PLC0415
    from deploy.local.folder import DataFolder  # noqa: PLC0415
    from deploy.local.session import run, start_detached  # noqa: PLC0415
    from deploy.local.summary import print_report, print_summary  # noqa: PLC0415

    console = _console()
    data_folder = DataFolder(folder.absolute())
    with _failures_as_one_line():
        if not detach:
            run(
                folder,
                console,
                port=port,
                demo=not (no_demo or quiet),
                stay=True,
                on_ready=lambda stack: (
                    None if quiet else print_summary(console, stack, data_folder, how_to_stop="Ctrl-C stops it all.")
                ),
            )
            return
        stack = start_detached(folder, console, port=port)
        if quiet:
            return
        if not no_demo:
            try:
                print_report(console, run_demo(stack, data_folder.reports, console, meanwhile=lambda: None))
            except DemoFailure as failure:
                console.print(f"The main job failed. {failure}", style="red", markup=False, highlight=False)
        how_to_stop = f"`{program()} down --dir {shlex.quote(str(folder))}` stops it all."
        print_summary(console, stack, data_folder, how_to_stop=how_to_stop)


@click.command()
@folder_option
def down(folder: Path) -> None:
    """Stop the stack that runs on the data folder, and wait until its last process is gone."""
    from deploy.local.session import stop_stack  # noqa: PLC0415

    with _failures_as_one_line():
        stopped = stop_stack(folder)
    click.echo("Stopped." if stopped else f"No stack runs on {folder}.")


@click.command()
@folder_option
@click.pass_context
def status(context: click.Context, folder: Path) -> None:
    """Say whether a stack runs on the data folder and which of its processes do.

    The exit code is 0 when all is well, 1 when something is amiss, 3 when no stack runs.
    """
    from deploy.local.folder import DataFolder, stack_process  # noqa: PLC0415
    from deploy.local.stack import Stack  # noqa: PLC0415
    from deploy.local.summary import print_status  # noqa: PLC0415

    data_folder = DataFolder(folder.absolute())
    with _failures_as_one_line():
        supervisor = stack_process(data_folder)
        described = data_folder.read_stack()
    if supervisor is None:
        click.echo(f"No stack runs on {folder}.")
        context.exit(EXIT_NOT_RUNNING)
    if described is None:
        click.echo(f"The stack on {folder} is starting or stopping.")
        context.exit(EXIT_FAILED)
    if not print_status(_console(), Stack.from_mapping(described)):
        context.exit(EXIT_FAILED)


@click.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Data folder to keep; by default a temporary one.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the API; by default 8000, or a free one.")
def demo(folder: Path | None, port: int | None) -> None:
    """Start the stack, run the main job, stop. The exit code tells whether it succeeded."""
    from deploy.local.session import run  # noqa: PLC0415
    from deploy.local.summary import print_passing_report, print_report  # noqa: PLC0415

    with _failures_as_one_line(), _given_or_temporary(folder) as chosen:
        run(
            chosen,
            _console(),
            port=port,
            demo=True,
            stay=False,
            on_ready=lambda _stack: None,
            show_report=print_passing_report if folder is None else print_report,
        )


@contextmanager
def _given_or_temporary(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="millrace-") as temporary:
        # The servers' user has to pass through.
        Path(temporary).chmod(0o755)
        yield Path(temporary)


@contextmanager
def _failures_as_one_line() -> Iterator[None]:
    from deploy.local.demo import DemoFailure  # noqa: PLC0415
    from deploy.local.guarded import StartFailure  # noqa: PLC0415
    from deploy.local.supervisor import StopRequested  # noqa: PLC0415

    try:
        yield
    except (StartFailure, DemoFailure) as failure:
        click.echo(str(failure), err=True)
        raise SystemExit(EXIT_FAILED) from failure
    except StopRequested as stop:
        raise SystemExit(EXIT_INTERRUPTED) from stop


def _console() -> "Console":
    from rich.console import Console  # noqa: PLC0415

    return Console()
