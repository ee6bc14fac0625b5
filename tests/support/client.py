"""An HTTP client for the tests, with a key."""

from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from service.accounts.keys import NewKey, create_key
from service.accounts.scopes import Scope


class KeyClient:
    """Calls the app under `/api/v1` as one tenant."""

    def __init__(self, app: Flask, tenant: str, scopes: tuple[Scope, ...] = tuple(Scope)) -> None:
        self.app = app
        with app.app_context():
            self.key: NewKey = create_key(tenant, scopes=scopes)
        self._client: FlaskClient = app.test_client()

    def open(self, method: str, path: str, **kwargs: Any) -> TestResponse:
        """One request; `path` is below `/api/v1`."""
        headers = {"Authorization": f"Bearer {self.key.key}", **kwargs.pop("headers", {})}
        return self._client.open(f"/api/v1{path}", method=method, headers=headers, **kwargs)

    def get(self, path: str, **kwargs: Any) -> TestResponse:
        return self.open("GET", path, **kwargs)

    def post(self, path: str, **kwargs: Any) -> TestResponse:
        return self.open("POST", path, **kwargs)

    def delete(self, path: str, **kwargs: Any) -> TestResponse:
        return self.open("DELETE", path, **kwargs)

    def submit(self, type_: str = "test.echo", **job: Any) -> dict[str, Any]:
        """Submit a job that must be accepted; returns it."""
        response = self.post("/jobs", json={"type": type_, **job})
        assert response.status_code == 202, response.text
        body: dict[str, Any] = response.get_json()
        return body

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it stands."""
        response = self.get(f"/jobs/{job_id}")
        assert response.status_code == 200, response.text
        body: dict[str, Any] = response.get_json()
        return body
