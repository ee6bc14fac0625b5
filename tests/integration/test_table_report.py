"""`table.report` on an artifact that was uploaded over HTTP."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from flask import Flask
from marshmallow import ValidationError

from service.artifacts.storage import ArtifactStorage
from service.ids import uuid7
from tests.support.client import KeyClient
from tests.support.reporting import Told, job_context, kept
from worker.context import JobContext, PermanentFailure
from worker.tasks.table_report import TableReportArgs, table_report

CSV = "name,amount,day\n" + "".join(f"n{number},{number * 1.5},2026-01-{number % 28 + 1:02}\n" for number in range(60))
Upload = Callable[[str], UUID]
Contexts = Callable[[UUID], JobContext]


@pytest.fixture
def upload(client: KeyClient) -> Upload:
    def put(content: str) -> UUID:
        response = client.post(
            "/artifacts",
            data=content.encode(),
            headers={"Content-Type": "text/csv", "Content-Disposition": 'attachment; filename="orders.csv"'},
        )
        assert response.status_code == 201, response.text
        return UUID(response.get_json()["id"])

    return put


@pytest.fixture
def context(app: Flask, client: KeyClient, config: dict[str, Any], tmp_path: Path) -> Contexts:
    storage = ArtifactStorage(Path(config["ARTIFACT_DIR"]))

    def build(job_id: UUID) -> JobContext:
        return job_context(
            tmp_path / "work", storage, tenant_id=client.key.tenant_id, job_id=job_id, job_type="table.report"
        )

    return build


def test_an_uploaded_table_becomes_a_page_a_paper_and_a_result(app: Flask, upload: Upload, context: Contexts) -> None:
    artifact_id, ctx = upload(CSV), context(uuid7())

    with app.app_context():
        result = table_report(ctx, artifact_id=artifact_id, title="Orders of January")

    files = kept(ctx)
    assert "Orders of January" in files["html"].decode()
    assert files["pdf"].startswith(b"%PDF-")
    assert (result["rows"], result["columns"]) == (60, 3)
    assert [column["type"] for column in result["profile"]] == ["text", "decimal", "date"]
    assert result["artifacts"] == {
        form: str(artifact.id) for form, artifact in zip(("html", "pdf"), ctx.artifacts, strict=True)
    }
    json.dumps(result, allow_nan=False)


def test_called_twice_it_makes_the_same_report(app: Flask, upload: Upload, context: Contexts) -> None:
    artifact_id, job_id = upload(CSV), uuid7()
    first, second = context(job_id), context(job_id)

    with app.app_context():
        results = [table_report(ctx, artifact_id=artifact_id) for ctx in (first, second)]

    assert {**results[0], "artifacts": None} == {**results[1], "artifacts": None}
    assert kept(first) == kept(second)


def test_progress_grows_to_the_end_and_says_what_goes_on(app: Flask, upload: Upload, context: Contexts) -> None:
    artifact_id, ctx = upload(CSV), context(uuid7())

    with app.app_context():
        table_report(ctx, artifact_id=artifact_id)

    told = ctx.report_progress
    assert isinstance(told, Told)
    percents = [percent for percent, _ in told.progress]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 100)
    assert {"Checking every line", "Comparing columns", "Writing the HTML report"} <= {
        word for _, word in told.progress
    }


def test_a_file_that_is_no_table_fails_for_good_with_the_line(app: Flask, upload: Upload, context: Contexts) -> None:
    artifact_id, ctx = upload("a,b,c\n1,2,3\n4,5\n"), context(uuid7())

    with app.app_context(), pytest.raises(PermanentFailure, match="Line 3 has 2 fields, the header has 3") as failure:
        table_report(ctx, artifact_id=artifact_id)

    assert failure.value.kind == "bad_table"
    assert ctx.artifacts == []


def test_another_tenants_file_is_not_found(
    app: Flask, upload: Upload, other_client: KeyClient, context: Contexts
) -> None:
    artifact_id, ctx = upload(CSV), context(uuid7())
    ctx.tenant_id = other_client.key.tenant_id

    with app.app_context(), pytest.raises(PermanentFailure) as failure:
        table_report(ctx, artifact_id=artifact_id)

    assert failure.value.kind == "artifact_not_found"


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"artifact_id": "7"},
        {"artifact_id": "0193d5a0-7c00-7000-8000-000000000000", "delimiter": "x"},
        {"artifact_id": "0193d5a0-7c00-7000-8000-000000000000", "format": "xlsx"},
        {"artifact_id": "0193d5a0-7c00-7000-8000-000000000000", "title": ""},
        {"artifact_id": "0193d5a0-7c00-7000-8000-000000000000", "sheet": 1},
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TableReportArgs().load(arguments)
