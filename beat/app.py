"""`celery -A beat.app beat`: the clock's process."""

from service.app import start

flask_app = start("beat")
celery_app = flask_app.extensions["celery"]
