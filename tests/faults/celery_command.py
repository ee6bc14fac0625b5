"""`python -m tests.faults.celery_command worker.app worker …`: Celery with the fault suite's job types loaded too.

FAULTS_MEMORY_BYTES bounds the address space of every process of the worker. FAULTS_CLOCK_SECONDS puts its clock wrong
by so much, as far as Python code asks `time.time()`: Celery and kombu do.
"""

import os
import resource
import sys
import time

from celery.__main__ import main

import tests.faults.job_types
import tests.support.job_types  # noqa: F401 - both register theirs

if __name__ == "__main__":
    if limit := int(os.environ.get("FAULTS_MEMORY_BYTES", "0")):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if shift := float(os.environ.get("FAULTS_CLOCK_SECONDS", "0")):
        right = time.time
        time.time = lambda: right() + shift
    sys.argv = ["celery", "-A", *sys.argv[1:]]
    main()
