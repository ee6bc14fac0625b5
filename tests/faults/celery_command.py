"""`python -m tests.faults.celery_command worker.app worker …`: Celery with the fault suite's job types loaded too.

FAULTS_MEMORY_BYTES bounds the address space of every process of the worker.
"""

import os
import resource
import sys

from celery.__main__ import main

import tests.faults.job_types
import tests.support.job_types  # noqa: F401 - both register theirs

if __name__ == "__main__":
    if limit := int(os.environ.get("FAULTS_MEMORY_BYTES", "0")):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.argv = ["celery", "-A", *sys.argv[1:]]
    main()
