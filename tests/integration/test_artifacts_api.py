"""Uploading, looking at, downloading and deleting files over HTTP."""

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from tests.support.apps import app_with
from tests.support.attempts import finish, start
from tests.support.client import KeyClient
from tests.support.database import execute

LIMIT = 1000


@pytest.fixture
def app(config: dict[str, Any]) -> Iterator[Flask]:
    with app_with(config, ARTIFACT_MAX_BYTES=LIMIT, PROPAGATE_EXCEPTIONS=False) as app:
        yield app


def upload(client: KeyClient, content: bytes = b"a,b\n1,2\n", *, filename: str = "t.csv") -> dict[str, Any]:
    headers = {"Content-Disposition": f'attachment; filename="{filename}"'}
    response = client.post("/artifacts", data=content, content_type="text/csv", headers=headers)
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.get_json()
    return body


def download(client: KeyClient, artifact: dict[str, Any], **headers: str) -> TestResponse:
    """The content, read to its end so that the file is closed."""
    return client.get(f"/artifacts/{artifact['id']}/content", headers=headers, buffered=True)


def form(content: bytes, filename: str = "t.csv", content_type: str = "text/csv") -> dict[str, Any]:
    return {
        "data": {"file": (io.BytesIO(content), filename, content_type), "note": "ignored"},
        "content_type": "multipart/form-data",
    }


def stored_files(app: Flask) -> list[Path]:
    return [path for path in Path(app.config["ARTIFACT_DIR"]).rglob("*") if path.is_file()]


def assert_nothing_kept(app: Flask) -> None:
    assert stored_files(app) == []
    assert execute(app, "SELECT id FROM artifacts") == []


def test_a_raw_upload_is_an_artifact(client: KeyClient) -> None:
    content = bytes(range(256))

    artifact = upload(client, content)

    assert (artifact["name"], artifact["content_type"], artifact["size"]) == ("t.csv", "text/csv", 256)
    assert artifact["sha256"] == hashlib.sha256(content).hexdigest()
    assert artifact["job_id"] is None
    assert client.get(f"/artifacts/{artifact['id']}").get_json() == artifact
    assert download(client, artifact).data == content


def test_a_form_upload_is_an_artifact(client: KeyClient) -> None:
    response = client.post("/artifacts", **form(b"a,b\n1,2\n", "Umsätze 2025.csv"))

    assert response.status_code == 201
    artifact = response.get_json()
    assert response.headers["Location"] == f"/api/v1/artifacts/{artifact['id']}" == artifact["links"]["self"]
    assert (artifact["name"], artifact["content_type"], artifact["size"]) == ("Umsätze 2025.csv", "text/csv", 8)
    assert download(client, artifact).data == b"a,b\n1,2\n"


def test_an_upload_of_unknown_length_is_an_artifact(client: KeyClient) -> None:
    response = client.post(
        "/artifacts",
        input_stream=io.BytesIO(b"x" * LIMIT),
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )

    assert (response.status_code, response.get_json()["size"]) == (201, LIMIT)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\\\Users\\\\x\\\\t.csv", "t.csv"),
        ("/", "unnamed"),
        ("", "unnamed"),
        ("   ", "unnamed"),
        ("a\tb\x7f.csv", "ab.csv"),
        ("x" * 300 + ".csv", "x" * 196 + ".csv"),
    ],
)
def test_the_name_of_a_file_is_cleaned(client: KeyClient, given: str, kept: str) -> None:
    assert upload(client, filename=given)["name"] == kept
    in_form = client.post("/artifacts", **form(b"x", given or "/"))  # without a name it would be no file
    assert in_form.get_json()["name"] == kept


@pytest.mark.parametrize(
    "sent",
    [
        'attachment; filename="Umsätze 2025 €.csv"',
        "attachment; filename*=UTF-8''Ums%C3%A4tze%202025%20%E2%82%AC.csv",
        "attachment; filename=\"Umsatze.csv\"; filename*=UTF-8''Ums%C3%A4tze%202025%20%E2%82%AC.csv",
    ],
    ids=["as it is", "RFC 5987", "both"],
)
def test_a_name_may_have_any_letters(app: Flask, client: KeyClient, sent: str) -> None:
    as_wsgi_has_it = sent.encode().decode("latin-1")

    raw = client.post("/artifacts", data=b"x", environ_overrides={"HTTP_CONTENT_DISPOSITION": as_wsgi_has_it})
    part = sent.replace("attachment", 'form-data; name="file"').encode()
    body = b"--edge\r\nContent-Disposition: " + part + b"\r\n\r\nx\r\n--edge--\r\n"
    in_form = client.post("/artifacts", data=body, content_type="multipart/form-data; boundary=edge")

    assert raw.get_json()["name"] == in_form.get_json()["name"] == "Umsätze 2025 €.csv"


def test_a_name_in_latin_1_is_read_as_such(client: KeyClient) -> None:
    header = {"HTTP_CONTENT_DISPOSITION": 'attachment; filename="Umsätze.csv"'}

    assert client.post("/artifacts", data=b"x", environ_overrides=header).get_json()["name"] == "Umsätze.csv"


@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
def test_nothing_is_no_file(app: Flask, client: KeyClient, framing: str) -> None:
    chunked = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}

    response = client.post("/artifacts", environ_overrides=chunked if framing == "chunked" else {})

    assert response.status_code == 422
    assert "Nothing was sent" in response.get_json()["detail"]
    assert_nothing_kept(app)


def test_an_empty_file_that_has_a_name_is_an_artifact(client: KeyClient) -> None:
    assert upload(client, b"")["size"] == 0
    assert client.post("/artifacts", **form(b"")).get_json()["size"] == 0


def test_a_body_of_curls_minus_d_is_refused_with_the_way_out(app: Flask, client: KeyClient) -> None:
    response = client.post("/artifacts", data=b"a,b1,2", content_type="application/x-www-form-urlencoded")

    assert response.status_code == 415
    assert "--data-binary" in response.get_json()["detail"]
    assert_nothing_kept(app)


def test_a_name_that_turns_its_own_ending_around_is_cleaned(client: KeyClient) -> None:
    headers = {"Content-Disposition": "attachment; filename*=UTF-8''a%E2%80%AEvsc.exe%0D%0AX-Evil"}

    response = client.post("/artifacts", data=b"x", headers=headers)

    assert response.get_json()["name"] == "avsc.exeX-Evil"
    downloaded = download(client, response.get_json())
    assert "X-Evil" not in downloaded.headers


@pytest.mark.parametrize("content_type", ["", "nonsense", "text/日本", "a/b/c", "text/" + "x" * 200])
def test_a_media_type_that_is_none_becomes_bytes(client: KeyClient, content_type: str) -> None:
    response = client.post("/artifacts", **form(b"x", "t.csv", content_type))

    assert response.get_json()["content_type"] == "application/octet-stream"
    assert download(client, response.get_json()).mimetype == "application/octet-stream"


def test_a_form_without_a_file_is_refused(app: Flask, client: KeyClient) -> None:
    for data in ({"note": "x"}, {"other": (io.BytesIO(b"x"), "x")}, {"file": "not a file"}):
        response = client.post("/artifacts", data=data, content_type="multipart/form-data")

        assert response.status_code == 422
        assert response.get_json()["errors"][0]["pointer"] == "/file"
    assert_nothing_kept(app)


@pytest.mark.parametrize("size", [LIMIT + 1, LIMIT + 200_000])
def test_a_file_that_is_too_large_leaves_nothing(app: Flask, client: KeyClient, size: int) -> None:
    raw = client.post("/artifacts", data=b"x" * size, content_type="text/csv")
    in_form = client.post("/artifacts", **form(b"x" * size))
    chunked = client.post(
        "/artifacts",
        input_stream=io.BytesIO(b"x" * size),
        headers={"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True, "CONTENT_LENGTH": ""},
    )

    for response in (raw, in_form, chunked):
        assert response.status_code == 413, response.text
        assert response.mimetype == "application/problem+json"
    assert_nothing_kept(app)


def test_the_largest_file_is_accepted_either_way(client: KeyClient) -> None:
    assert client.post("/artifacts", data=b"x" * LIMIT, content_type="text/csv").status_code == 201
    assert client.post("/artifacts", **form(b"x" * LIMIT)).status_code == 201


def test_an_upload_that_breaks_off_leaves_nothing(app: Flask, client: KeyClient) -> None:
    response = client.post(
        "/artifacts", input_stream=io.BytesIO(b"only a part"), environ_overrides={"CONTENT_LENGTH": "500"}
    )

    assert response.status_code == 400
    assert_nothing_kept(app)


def test_a_file_whose_row_cannot_be_written_is_not_kept(app: Flask, client: KeyClient) -> None:
    execute(app, "ALTER TABLE artifacts ADD CONSTRAINT refuses CHECK (size <> 8)")

    response = client.post("/artifacts", data=b"12345678")

    assert response.status_code == 500
    assert_nothing_kept(app)


def test_a_download_is_an_attachment_that_nobody_sniffs(client: KeyClient) -> None:
    page = {"Content-Disposition": 'attachment; filename="page.html"'}
    artifact = client.post("/artifacts", data=b"<script>", content_type="text/html", headers=page).get_json()

    response = download(client, artifact)

    assert response.headers["Content-Disposition"] == "attachment; filename=page.html"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]
    assert "private" in response.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("sent", "status", "content", "told"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-1", 206, b"9", "bytes 9-9/10"),
        ("bytes=5-100", 206, b"56789", "bytes 5-9/10"),
    ],
)
def test_a_range_can_be_downloaded(client: KeyClient, sent: str, status: int, content: bytes, told: str) -> None:
    artifact = upload(client, b"0123456789")

    response = download(client, artifact, Range=sent)

    assert (response.status_code, response.data) == (status, content)
    assert response.headers["Content-Range"] == told


def test_a_range_beyond_the_file_is_refused(client: KeyClient) -> None:
    artifact = upload(client, b"0123456789")

    response = download(client, artifact, Range="bytes=10-")

    assert response.status_code == 416
    assert response.headers["Content-Range"] == "bytes */10"
    assert response.get_json()["type"] == "urn:millrace:problem:range-not-satisfiable"


def test_an_unchanged_file_is_not_sent_again(client: KeyClient) -> None:
    artifact = upload(client)
    tag = download(client, artifact).headers["ETag"]

    response = download(client, artifact, **{"If-None-Match": tag})

    assert (response.status_code, response.data) == (304, b"")


def test_a_deleted_file_is_gone(app: Flask, client: KeyClient) -> None:
    artifact = upload(client)

    statuses = [client.delete(f"/artifacts/{artifact['id']}").status_code for _ in range(2)]

    assert statuses == [204, 404]
    assert download(client, artifact).status_code == 404
    assert_nothing_kept(app)


def undashed(artifact_id: str) -> Any:
    return artifact_id.replace("-", "")


@pytest.mark.parametrize("as_sent", [str, str.upper, undashed, lambda sent: {"files": [{"id": sent}]}])
def test_a_file_that_an_unfinished_job_uses_stays(app: Flask, client: KeyClient, as_sent: Any) -> None:
    artifact, other = upload(client), upload(client)
    job = client.submit(args={"value": as_sent(artifact["id"])}, delay=60)

    in_use, unused = client.delete(f"/artifacts/{artifact['id']}"), client.delete(f"/artifacts/{other['id']}")
    client.post(f"/jobs/{job['id']}/cancel")
    after = client.delete(f"/artifacts/{artifact['id']}")

    assert (in_use.status_code, unused.status_code, after.status_code) == (409, 204, 204)
    assert in_use.get_json()["type"] == "urn:millrace:problem:in-use"
    assert job["id"] in in_use.get_json()["detail"]


def test_a_running_job_keeps_its_file_until_it_ends(app: Flask, client: KeyClient) -> None:
    artifact = upload(client)
    job, later = (client.submit(args={"value": artifact["id"]}) for _ in range(2))
    start(app, job["id"])
    finish(app, later["id"])

    assert client.delete(f"/artifacts/{artifact['id']}").status_code == 409


def test_a_job_lists_what_it_made(app: Flask, client: KeyClient) -> None:
    job = client.submit("test.artifact")
    made, other = upload(client), upload(client)
    execute(app, "UPDATE artifacts SET job_id = :job WHERE id = :id", job=UUID(job["id"]), id=UUID(made["id"]))

    items = client.get(f"/jobs/{job['id']}/artifacts").get_json()["items"]

    assert [item["id"] for item in items] == [made["id"]] != [other["id"]]
    assert items[0]["job_id"] == job["id"]
