"""What a person is told: where everything is, what the main job found, whether the stack is well."""

import json
import shlex
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from deploy.local.demo import DemoReport
from deploy.local.folder import DEFAULT_FOLDER, DataFolder, process_exists
from deploy.local.http import answers
from deploy.local.program import program
from deploy.local.stack import Stack


def print_summary(console: Console, stack: Stack, folder: DataFolder, *, how_to_stop: str) -> None:
    """URLs, credentials and a line to paste that submits a job and fetches it."""
    flower = stack.credentials["flower"]
    rows = {
        "API": stack.api_url,
        "API key": stack.api_key,
        "API's pages": stack.docs_url,
        "Flower": f"{stack.flower_url}  (user {flower['user']}, password {flower['password']})",
        "PostgreSQL": stack.database_url,
        "Redis": stack.redis_url,
        "Logs": str(folder.logs),
        "For scripts": str(folder.stack_file),
        "Commands": f"{program()} key, rule and doctor are about this stack{_said_with_dir(folder)}",
    }
    console.print()
    for name, value in rows.items():
        console.print(f"{name:<12} {value}", markup=False, highlight=False, soft_wrap=True)
    console.print("\nPaste this to have a report made of today's jobs, and fetch its figures:\n", highlight=False)
    console.print(curl_line(stack, today=datetime.now(UTC).date()), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n{how_to_stop}", markup=False, highlight=False)


def _said_with_dir(folder: DataFolder) -> str:
    return "" if folder.path == DEFAULT_FOLDER.absolute() else f", with --dir {shlex.quote(str(folder.path))}"


def curl_line(stack: Stack, *, today: date) -> str:
    """A line for the shell: submits a job and waits up to 20 s for it to finish, so that its answer has the result.

    Its report is on the whole of `today`, in UTC, and so at least on the job itself.
    """
    args = {"since": f"{today}T00:00:00Z", "until": f"{today + timedelta(days=1)}T00:00:00Z"}
    job = json.dumps({"type": "report.activity", "args": args})
    headers = (f"Authorization: Bearer {stack.api_key}", "Content-Type: application/json", "Prefer: wait=20")
    options = " ".join(f"-H {shlex.quote(header)}" for header in headers)
    return f"curl -sS {options} -d {shlex.quote(job)} {stack.api_url}/jobs"


def print_report(console: Console, report: DemoReport) -> None:
    """Key figures of the main job's result and where its reports are."""
    console.print(f"The job {report.job_id} succeeded after {report.seconds:.1f} s.", highlight=False)
    for figure in report.figures:
        console.print(f"  {figure}", markup=False, highlight=False)
    for file in report.files:
        console.print(f"  open {file}", markup=False, highlight=False, soft_wrap=True)


def print_passing_report(console: Console, report: DemoReport) -> None:
    """As `print_report`, for files that are removed in a moment."""
    print_report(console, replace(report, files=[]))
    console.print(f"  To keep the report: {program()} demo --dir FOLDER", markup=False, highlight=False)


def print_status(console: Console, stack: Stack) -> bool:
    """A table of the processes; True when all run and the API is ready."""
    table = Table("role", "process", "state")
    well = True
    for role, pid in stack.pids.items():
        alive = process_exists(pid)
        well = well and alive
        table.add_row(role, str(pid), "runs" if alive else "[red]gone[/]")
    url = urlsplit(stack.api_url)
    ready = answers(f"{url.scheme}://{url.netloc}/readyz")
    console.print(table)
    console.print(f"{stack.api_url} {'is ready' if ready else 'does not answer'}", highlight=False)
    return well and ready
