"""Celery in Flask, the way Flask documents it: `celery_init_app` and a task class that brings the app context."""

from typing import Any, cast

from celery import Celery, Task
from flask import Flask

from service.redis_transport import install as install_redis_transport


class FlaskCelery(Celery):  # type: ignore[misc] # celery ships no types
    """A Celery app that knows its Flask app."""

    flask_app: Flask


class FlaskTask(Task):  # type: ignore[misc] # celery ships no types
    """A task whose body runs inside the Flask app's context."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task's body."""
        with flask_app_of(self.app).app_context():
            return self.run(*args, **kwargs)


def celery_init_app(app: Flask) -> FlaskCelery:
    """Make the Celery app of a Flask app, configured from `app.config["CELERY"]`, at `app.extensions["celery"]`."""
    install_redis_transport()  # before Celery is made: it resolves the transport by its alias
    celery_app = FlaskCelery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.flask_app = app
    celery_app.set_default()  # without it a shared_task publishes to amqp://localhost
    app.extensions["celery"] = celery_app
    return celery_app


def flask_app_of(celery_app: Celery) -> Flask:
    """The Flask app that a Celery app was made for."""
    return cast("FlaskCelery", celery_app).flask_app
