"""`celery -A beat.app beat`: the clock's process."""

from service.app import create_app

flask_app = create_app(role="beat")
celery_app = flask_app.extensions["celery"]
