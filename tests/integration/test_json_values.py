"""Any JSON value there is: accepted and handed back as it was, or refused; never a crash."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from hypothesis import HealthCheck, given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from tests.support.apps import app_that_crashes_quietly
from tests.support.client import KeyClient
from tests.support.database import execute
from tests.support.servers import TestServers


@pytest.fixture(scope="module")
def app(servers: TestServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """One app for all the values."""
    with app_that_crashes_quietly(servers, tmp_path_factory.mktemp("artifacts")) as app:
        yield app


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters()),  # with NUL and halves of surrogate pairs, which other strategies leave out
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
IN_ONE_DATABASE = given_settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def equal(left: Any, right: Any) -> bool:
    """Whether two JSON values are the same; numbers as doubles, as JSON promises them (RFC 8259, 6)."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, float) or isinstance(right, float):
        return float(left) == float(right)
    return bool(left == right)


@IN_ONE_DATABASE
@given(value=JSON)
def test_any_argument_comes_back_equal_or_is_refused(client: KeyClient, value: Any) -> None:
    response = client.post(
        "/jobs", data=json.dumps({"type": "test.echo", "args": {"value": value}}), content_type="application/json"
    )

    if response.status_code == 202:
        assert equal(client.job(response.get_json()["id"])["args"], {"value": value})
    else:
        assert response.status_code in {400, 422}, response.text


@IN_ONE_DATABASE
@given(body=JSON | st.fixed_dictionaries({"type": st.just("test.echo")}, optional={"args": JSON, "metadata": JSON}))
def test_any_body_is_accepted_or_refused(client: KeyClient, body: Any) -> None:
    response = client.post("/jobs", data=json.dumps(body), content_type="application/json")

    assert response.status_code in {202, 400, 422}, response.text


def test_a_large_number_can_be_exported_and_retried(app: Flask, client: KeyClient) -> None:
    execute(app, "DELETE FROM jobs")
    job = client.submit(args={"value": 1e20})
    client.post(f"/jobs/{job['id']}/cancel")

    exported = client.get("/jobs", headers={"Accept": "application/x-ndjson"})
    retried = client.post(f"/jobs/{job['id']}/retry")

    assert json.loads(exported.text)["args"] == {"value": 1e20}
    assert retried.get_json()["args"] == {"value": 1e20}


@IN_ONE_DATABASE
@given(body=st.binary(max_size=60))
def test_any_bytes_are_refused(client: KeyClient, body: bytes) -> None:
    response = client.post("/jobs", data=body, content_type="application/json")

    assert response.status_code in {400, 422}, response.text
