"""`celery -A worker.app worker`: the worker's process."""

import gc

from service.app import start
from worker.node import connect_node

OBJECTS_BETWEEN_COLLECTIONS = 10_000

flask_app = start("worker")
celery_app = flask_app.extensions["celery"]
connect_node(flask_app)

# What is loaded by now stays: the collector need not visit it again and again, and pool processes go on sharing its
# memory. Messages and jobs leave little that reference counts do not free.
gc.collect()
gc.freeze()
gc.set_threshold(OBJECTS_BETWEEN_COLLECTIONS)
