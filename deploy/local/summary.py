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
    """A line for the shell: submits a job, follows its `Location`, and waits there up to 20 s for the result."""
    url = urlsplit(stack.api_url)
    authorization = shlex.quote(f"Authorization: Bearer {stack.api_key}")
    submit = (
        f"curl -sS -o /dev/null -D - -H {authorization} -H 'Content-Type: application/json' "
        f"-d {shlex.quote(EXAMPLE_JOB)} {stack.api_url}/jobs"
    )
    # A Location may be a path alone or a whole URL: what is left of it after the host is the same.
    location = r"sed -n 's|^[Ll]ocation: *\(https*://[^/]*\)\{0,1\}\([^[:space:]]*\).*|\2|p'"
    return f'curl -sS -H {authorization} "{url.scheme}://{url.netloc}$({submit} | {location})?wait=20"'


def print_report(console: Console, report: DemoReport) -> None:
    """Key figures of the main job's result and where its reports are."""
    console.print(f"The job {report.job_id} succeeded after {report.seconds:.1f} s.", highlight=False)
    for name, value in report.figures.items():
        console.print(f"  {name:<20} {value}", markup=False, highlight=False)
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
