"""`celery -A worker.app worker`: the worker's process."""

from service.app import create_app
from worker.node import connect_node

flask_app = create_app(role="worker")
celery_app = flask_app.extensions["celery"]
connect_node(flask_app)
