"""A Celery app of its own for `celery -A tests.faults.napping_worker worker`: tasks that leave a file and take a while.

STOCK_TRANSPORT=1 leaves kombu as it comes: the way to see whether a new release has mended it.
"""

import os
import time
from pathlib import Path

from celery import Celery

from service.redis_transport import install

if os.environ.get("STOCK_TRANSPORT") != "1":
    install()

app = Celery("napping_worker", broker=os.environ["BROKER_URL"], set_as_current=False)
app.conf.update(
    task_ignore_result=True,
    task_acks_late=True,
    worker_prefetch_multiplier=4,  # with room for more, the worker always has a blocking pop under way
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_connection_max_retries=None,
    worker_enable_remote_control=os.environ.get("REMOTE_CONTROL") != "0",
)


@app.task(name="nap")  # type: ignore[untyped-decorator] # celery ships no types
def nap(marker: str, seconds: float) -> None:
    """Leave a file to say that it runs, then take its time."""
    Path(marker).touch()
    time.sleep(seconds)
