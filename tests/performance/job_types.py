"""The benchmark's own job types, loaded into API and workers as an installed package's would be: by entry point."""

import time
from pathlib import Path

from marshmallow import Schema, fields

from worker.context import JobContext
from worker.job_task import job

NOOP = "bench.noop"
MOMENT = "bench.moment"


class Args(Schema):
    """What a small job is given."""

    number = fields.Integer(load_default=0)
    name = fields.String()


@job(NOOP, args=Args, timeout=60, max_attempts=3)
def noop(_ctx: JobContext, **_: object) -> None:
    """Does nothing."""


@job(MOMENT, args=Args, timeout=60, max_attempts=3)
def moment(_ctx: JobContext, **_: object) -> int:
    """The nanosecond, on the machine's monotonic clock, at which the handler began."""
    return time.monotonic_ns()


def install_entry_point(folder: Path) -> None:
    """Make the folder, put into Python's path, look like one with a package installed that brings these job types."""
    metadata = folder / "millrace_bench-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: millrace-bench\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[millrace.job_types]\nbench = {__name__}\n")
