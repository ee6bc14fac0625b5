"""Submitting over HTTP."""

from tests.support.client import KeyClient


def test_a_submitted_job_can_be_fetched(client: KeyClient) -> None:
    response = client.post("/jobs", json={"type": "test.echo", "args": {"value": 1}})

    assert response.status_code == 202, response.text
    job = response.get_json()
    assert job["state"] == "queued"
    assert response.headers["Location"] == f"/api/v1/jobs/{job['id']}"
    assert client.job(job["id"])["args"] == {"value": 1}
