"""What a person is told: where everything is, what the main job found, whether the stack is well."""

import shlex
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from deploy.local.demo import DemoReport
from deploy.local.folder import DataFolder, process_exists
from deploy.local.http import answers
from deploy.local.stack import Stack

EXAMPLE_JOB = '{"type": "report.activity", "args": {}}'


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
    }
    console.print()
    for name, value in rows.items():
        console.print(f"{name:<12} {value}", markup=False, highlight=False, soft_wrap=True)
    console.print("\nPaste this to submit a job and fetch it:\n", highlight=False)
    console.print(curl_line(stack), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n{how_to_stop}", markup=False, highlight=False)


def curl_line(stack: Stack) -> str:
    """A line for the shell: submits a job and waits up to 20 s for it to finish, so that its answer has the result."""
    headers = (f"Authorization: Bearer {stack.api_key}", "Content-Type: application/json", "Prefer: wait=20")
    options = " ".join(f"-H {shlex.quote(header)}" for header in headers)
    return f"curl -sS {options} -d {shlex.quote(EXAMPLE_JOB)} {stack.api_url}/jobs"


def print_report(console: Console, report: DemoReport) -> None:
    """Key figures of the main job's result and where its reports are."""
    console.print(f"The job {report.job_id} succeeded after {report.seconds:.1f} s.", highlight=False)
    for figure in report.figures:
        console.print(f"  {figure}", markup=False, highlight=False)
    for file in report.files:
        console.print(f"  open {file}", markup=False, highlight=False, soft_wrap=True)


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
