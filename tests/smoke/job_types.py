"""A job type that only these tests need. It reaches workers and API as an installed package's own would."""

import time
from pathlib import Path

from marshmallow import Schema, fields

from worker.context import JobContext
from worker.job_task import job


class NapArgs(Schema):
    """How long."""

    seconds = fields.Float(load_default=0.0)


@job("smoke.nap", args=NapArgs, timeout=60, max_attempts=3)
def nap(ctx: JobContext, *, seconds: float) -> int:
    """Sleeps in small steps; returns the number of the attempt."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 0.02))
    return ctx.attempt


def package_files() -> dict[str, bytes]:
    """This module as an installed package: files for a folder on PYTHONPATH."""
    return {
        "smoke_job_types.py": Path(__file__).read_bytes(),
        "smoke_job_types-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: smoke-job-types\nVersion: 1\n",
        "smoke_job_types-1.dist-info/entry_points.txt": b"[millrace.job_types]\nsmoke = smoke_job_types\n",
    }
