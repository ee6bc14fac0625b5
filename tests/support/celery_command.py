"""`python -m tests.support.celery_command worker.app worker …`: Celery with the tests' own job types loaded."""

import sys

from celery.__main__ import main

import tests.support.job_types  # noqa: F401 - registers them

if __name__ == "__main__":
    sys.argv = ["celery", "-A", *sys.argv[1:]]
    main()
