"""Looking at jobs, listing, cancelling and retrying them over HTTP."""

import csv
import io
import json
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from flask import Flask

from service.transaction import transaction
from tests.support.attempts import break_down, finish, finish_attempt, start
from tests.support.client import KeyClient
from tests.support.database import execute
from tests.support.reporting import insert_job
from tests.support.threads import in_background


def weak(tag: str) -> str:
    return f"W/{tag}"


@pytest.mark.parametrize("as_sent", [str, weak, lambda tag: f'"other", {tag}'])
def test_an_unchanged_job_is_not_sent_again(client: KeyClient, as_sent: Any) -> None:
    job = client.submit()
    tag = client.get(f"/jobs/{job['id']}").headers["ETag"]

    response = client.get(f"/jobs/{job['id']}", headers={"If-None-Match": as_sent(tag)})

    assert (response.status_code, response.data) == (304, b"")
    assert response.headers["ETag"] == tag


def test_a_changed_job_is_sent_again(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    tag = client.get(f"/jobs/{job['id']}").headers["ETag"]
    start(app, job["id"])

    response = client.get(f"/jobs/{job['id']}", headers={"If-None-Match": tag})

    assert response.status_code == 200
    assert response.get_json()["state"] == "running"
    assert response.headers["ETag"] != tag


def test_a_job_tells_its_whole_life(app: Flask, client: KeyClient) -> None:
    job = client.submit(args={"value": [1]})
    assert client.job(job["id"])["waiting_for"]["reason"] == "no_worker"
    claimed = start(app, job["id"])
    running = client.job(job["id"])
    finish_attempt(app, claimed, {"answer": 42})

    done = client.get(f"/jobs/{job['id']}")

    assert (running["state"], running["celery_state"], running["attempt"]) == ("running", "STARTED", 1)
    assert running["finished_at"] is None
    shown = done.get_json()
    assert (shown["state"], shown["celery_state"], shown["result"]) == ("succeeded", "SUCCESS", {"answer": 42})
    moments = [datetime.fromisoformat(shown[name]) for name in ("created_at", "started_at", "finished_at")]
    assert moments == sorted(moments)
    assert "Retry-After" not in done.headers


def test_the_links_of_a_job_lead_somewhere(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    finish(app, job["id"])

    for link in job["links"].values():
        assert client.get(link.removeprefix("/api/v1")).status_code == 200


def test_a_held_request_is_answered_when_the_job_changes(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    tag = client.get(f"/jobs/{job['id']}").headers["ETag"]

    with in_background(lambda: start(app, job["id"])):
        response = client.get(f"/jobs/{job['id']}?wait=50", headers={"If-None-Match": weak(tag)})

    assert response.status_code == 200
    assert response.get_json()["state"] == "running"


def test_a_held_request_without_a_tag_is_answered_when_the_job_ends(app: Flask, client: KeyClient) -> None:
    job = client.submit()

    with in_background(lambda: finish(app, job["id"], 7)):
        response = client.get(f"/jobs/{job['id']}?wait=50")

    assert (response.get_json()["state"], response.get_json()["result"]) == ("succeeded", 7)


def test_a_held_request_for_an_ended_job_is_answered_at_once(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    finish(app, job["id"])

    began = time.monotonic()
    response = client.get(f"/jobs/{job['id']}?wait=60")

    assert response.get_json()["state"] == "succeeded"
    assert time.monotonic() - began < 30


def test_a_held_request_ends_with_its_time(client: KeyClient) -> None:
    job = client.submit()

    response = client.get(f"/jobs/{job['id']}?wait=0.2")

    assert (response.status_code, response.get_json()["state"]) == (200, "queued")


@pytest.mark.parametrize("delay", [0, 60])
def test_a_waiting_job_is_cancelled_at_once(client: KeyClient, delay: int) -> None:
    job = client.submit(delay=delay)

    response = client.post(f"/jobs/{job['id']}/cancel")

    assert response.status_code == 200
    assert response.get_json()["state"] == "cancelled"
    assert client.job(job["id"])["celery_state"] == "REVOKED"


def test_a_running_job_is_asked_to_stop(app: Flask, client: KeyClient) -> None:
    job = client.submit()
    start(app, job["id"])

    first, second = (client.post(f"/jobs/{job['id']}/cancel") for _ in range(2))

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.get_json()["state"] == "running"
    assert first.get_json()["cancel_requested_at"] is not None
    assert int(first.headers["Retry-After"]) >= 1


def test_cancelling_a_job_that_has_ended_says_how_it_ended(app: Flask, client: KeyClient) -> None:
    done, cancelled = client.submit(), client.submit()
    finish(app, done["id"], "kept")
    client.post(f"/jobs/{cancelled['id']}/cancel")

    answers = [client.post(f"/jobs/{job['id']}/cancel") for job in (done, cancelled)]

    assert [answer.status_code for answer in answers] == [409, 409]
    assert [answer.get_json()["state"] for answer in answers] == ["succeeded", "cancelled"]
    assert client.job(done["id"])["result"] == "kept"


def test_a_retry_by_hand_is_a_new_job(app: Flask, client: KeyClient) -> None:
    old = client.submit(args={"value": 1}, priority=4, tags=["a"], metadata={"b": 1}, queue="bulk", timeout=9)
    break_down(app, old["id"])

    response = client.post(f"/jobs/{old['id']}/retry")

    assert response.status_code == 202
    new = response.get_json()
    assert response.headers["Location"] == f"/api/v1/jobs/{new['id']}" != f"/api/v1/jobs/{old['id']}"
    assert (new["origin_id"], new["state"], new["attempt"]) == (old["id"], "queued", 0)
    kept = ("type", "args", "priority", "tags", "metadata", "queue", "timeout", "max_attempts")
    assert {name: new[name] for name in kept} == {name: old[name] for name in kept}
    assert client.job(old["id"])["state"] == "failed"


@pytest.mark.parametrize("args", [{"value": 2}, {}])
def test_a_retry_by_hand_may_have_other_arguments(app: Flask, client: KeyClient, args: dict[str, Any]) -> None:
    old = client.submit(args={"value": 1})
    finish(app, old["id"])

    response = client.post(f"/jobs/{old['id']}/retry", json={"args": args})

    assert response.get_json()["args"] == args


def test_a_retry_by_hand_checks_its_arguments(app: Flask, client: KeyClient) -> None:
    old = client.submit()
    finish(app, old["id"])

    response = client.post(f"/jobs/{old['id']}/retry", json={"args": {"path": 5}})

    assert response.status_code == 422
    assert [fault["pointer"] for fault in response.get_json()["errors"]] == ["/args/path"]


def test_only_an_ended_job_can_be_retried_by_hand(app: Flask, client: KeyClient) -> None:
    queued, running = client.submit(), client.submit()
    start(app, running["id"])

    answers = [client.post(f"/jobs/{job['id']}/retry") for job in (queued, running)]

    assert [answer.status_code for answer in answers] == [409, 409]


def test_pages_neither_repeat_nor_skip_while_jobs_arrive(client: KeyClient) -> None:
    ids = [client.submit()["id"] for _ in range(7)]
    seen: list[str] = []
    path = "/jobs?limit=3&type=test.echo"
    while path:
        page = client.get(path)
        seen += [job["id"] for job in page.get_json()["items"]]
        client.submit()
        cursor = page.get_json()["next_cursor"]
        path = f"/jobs?limit=3&type=test.echo&cursor={cursor}" if cursor else ""

    assert [job_id for job_id in seen if job_id in ids] == sorted(ids, reverse=True)
    assert len(seen) == len(set(seen))


def test_the_link_header_leads_through_all_pages(client: KeyClient) -> None:
    ids = {client.submit(tags=["a b", "c"])["id"] for _ in range(5)}
    client.submit()
    seen: list[str] = []
    path = "/jobs?limit=2&tag=a%20b&state=queued&state=running"
    while path:
        page = client.get(path)
        seen += [job["id"] for job in page.get_json()["items"]]
        link = page.headers.get("Link", "")
        assert bool(link) == (page.get_json()["next_cursor"] is not None)
        assert not link or link.endswith('>; rel="next"')
        path = link.partition(">")[0].removeprefix("</api/v1")
    assert set(seen) == ids
    assert len(seen) == len(ids)


def test_a_full_last_page_has_no_next_one(client: KeyClient) -> None:
    for _ in range(2):
        client.submit()

    page = client.get("/jobs?limit=2")

    assert len(page.get_json()["items"]) == 2
    assert page.get_json()["next_cursor"] is None
    assert "Link" not in page.headers


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=succeeded", ["done"]),
        ("state=succeeded&state=scheduled", ["done", "later"]),
        ("type=test.sleep", ["sleep"]),
        ("queue=bulk", ["bulk"]),
        ("tag=a%2Cb", ["tagged"]),
        ("tag=a", []),
        ("state=queued&queue=bulk", ["bulk"]),
        ("schedule_id=0193d5a0-7c00-7000-8000-000000000000", ["later"]),
        ("created_before=2020-01-01T00:00:00Z", ["old"]),
        ("created_after=2020-01-01T00:00:00Z&state=queued&type=test.echo", ["bulk", "tagged"]),
        ("created_after=2018-12-31T23:00:00-01:00&created_before=2019-01-01T00:00:01Z", ["old"]),
        ("created_before=2018-01-01T00:00:00Z", []),
    ],
)
def test_each_filter_finds_its_jobs(app: Flask, client: KeyClient, query: str, expected: list[str]) -> None:
    jobs = {
        "done": client.submit(),
        "later": client.submit(delay=60),
        "sleep": client.submit("test.sleep"),
        "bulk": client.submit(queue="bulk"),
        "tagged": client.submit(tags=["a,b"]),
    }
    with app.app_context(), transaction() as session:
        old = datetime(2019, 1, 1, microsecond=500_000, tzinfo=UTC)
        job_id = insert_job(session, client.key.tenant_id, created_at=old, state="expired")
        jobs["old"] = {"id": str(job_id)}
    finish(app, jobs["done"]["id"])
    scheduled = {"id": jobs["later"]["id"], "schedule": "0193d5a0-7c00-7000-8000-000000000000"}
    execute(app, "UPDATE jobs SET schedule_id = :schedule WHERE id = :id", **scheduled)

    found = client.get(f"/jobs?{query}").get_json()["items"]

    assert sorted(job["id"] for job in found) == sorted(jobs[name]["id"] for name in expected)


@pytest.mark.parametrize("cursor", ["garbage", "é", "=", "A" * 23, "Ag" + "A" * 21, "../../etc/passwd"])
def test_a_cursor_that_is_not_ours_is_refused(client: KeyClient, cursor: str) -> None:
    client.submit()

    response = client.get("/jobs", query_string={"cursor": cursor})

    assert response.status_code == 422
    assert [fault["pointer"] for fault in response.get_json()["errors"]] == ["/cursor"]


def test_a_page_keeps_its_filter(client: KeyClient) -> None:
    for _ in range(3):
        client.submit(tags=["a"])

    link = client.get("/jobs?limit=1&tag=a").headers["Link"]

    parameters = parse_qs(urlsplit(link.partition(">")[0][1:]).query)
    assert (parameters["tag"], parameters["limit"]) == (["a"], ["1"])


def test_a_list_can_be_exported_as_csv(app: Flask, client: KeyClient) -> None:
    plain = client.submit(args={"value": 'a "quoted", text\nof two lines'}, tags=["=cmd"])
    finish(app, plain["id"], "=HYPERLINK(1)")
    client.submit("test.sleep")

    response = client.get("/jobs?type=test.echo", headers={"Accept": "text/csv"})

    assert response.mimetype == "text/csv"
    assert response.headers["Content-Disposition"] == "attachment; filename=jobs.csv"
    (row,) = csv.DictReader(io.StringIO(response.text))
    assert (row["id"], row["state"], row["queue"]) == (plain["id"], "succeeded", "default")
    assert json.loads(row["args"]) == plain["args"]
    assert row["result"] == "'=HYPERLINK(1)"  # a spreadsheet must not run it
    assert json.loads(row["tags"]) == ["=cmd"]


def test_a_list_can_be_exported_as_lines_of_json(client: KeyClient) -> None:
    ids = [client.submit(args={"value": number})["id"] for number in range(3)]

    response = client.get("/jobs?limit=1", headers={"Accept": "application/x-ndjson"})

    assert response.mimetype == "application/x-ndjson"
    jobs = [json.loads(line) for line in response.text.splitlines()]
    assert [job["id"] for job in jobs] == ids[::-1]
    assert [job["args"]["value"] for job in jobs] == [2, 1, 0]


def test_an_export_goes_on_past_its_page(monkeypatch: pytest.MonkeyPatch, client: KeyClient) -> None:
    monkeypatch.setattr("service.jobs.export.PAGE", 2)
    ids = [client.submit()["id"] for _ in range(4)]

    response = client.get("/jobs", headers={"Accept": "text/csv"})

    assert [row["id"] for row in csv.DictReader(io.StringIO(response.text))] == ids[::-1]


@pytest.mark.parametrize("accept", ["*/*", "application/json, text/csv;q=0.5", "text/html"])
def test_a_list_is_json_unless_an_export_is_preferred(client: KeyClient, accept: str) -> None:
    assert client.get("/jobs", headers={"Accept": accept}).get_json() == {"items": [], "next_cursor": None}


def test_a_page_of_large_jobs_has_fewer_and_none_is_left_out(client: KeyClient) -> None:
    large = [client.submit(args={"value": "x" * 1_500_000})["id"] for _ in range(5)]
    client.submit()
    seen: list[str] = []
    pages = []
    path = "/jobs?limit=200"
    while path:
        page = client.get(path).get_json()
        pages.append(len(page["items"]))
        seen += [job["id"] for job in page["items"]]
        path = f"/jobs?limit=200&cursor={page['next_cursor']}" if page["next_cursor"] else ""

    assert pages == [3, 2, 1]
    assert seen[1:] == large[::-1]
    exported = client.get("/jobs", headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert [json.loads(line)["id"] for line in exported] == seen
