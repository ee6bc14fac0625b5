"""The artifacts endpoints: upload, look, download, delete."""

import re
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from uuid import UUID

from flask import current_app, request, send_file
from flask.views import MethodView
from werkzeug.http import parse_options_header

from service.accounts.scopes import Scope
from service.artifacts.files import (
    ArtifactInUse,
    ArtifactNotFound,
    NewArtifact,
    add_upload,
    artifacts_of_job,
    delete_artifact,
    get_artifact,
)
from service.artifacts.models import Artifact
from service.artifacts.schemas import ArtifactListSchema, ArtifactSchema
from service.artifacts.storage import ArtifactStorage
from service.http.body import StrictBlueprint
from service.http.identity import principal, requires
from service.http.problems import Problem, not_found
from service.ids import uuid7
from service.jobs.ownership import owned_job

blp = StrictBlueprint("artifacts", __name__, url_prefix="/api/v1", description="Files that jobs read and make")

CHUNK = 1 << 18
FORM_SLACK = 1 << 16
"""What the parts of a form may add around the file itself, in bytes."""


@blp.route("/artifacts")
class Artifacts(MethodView):
    """All artifacts."""

    @requires(Scope.ARTIFACTS_WRITE)
    @blp.doc(
        requestBody={
            "required": True,
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
                },
            },
        }
    )
    @blp.response(201, ArtifactSchema)
    @blp.alt_response(415, description="`application/x-www-form-urlencoded`, which is no file's type")
    @blp.alt_response(422, description="a form without the part `file`, or nothing at all")
    def post(self) -> Any:
        """Upload a file: as the raw body with its `Content-Type`, or as the part `file` of a form.

        Name it with `Content-Disposition: attachment; filename="…"` (UTF-8, or RFC 5987's `filename*`). A file may be
        empty if it has a name. Use the id that comes back in a job's arguments.
        """
        limit: int = current_app.config["ARTIFACT_MAX_BYTES"]
        request.max_content_length = limit + FORM_SLACK
        is_form = request.mimetype == "multipart/form-data"
        name, content_type, stream = _form_part() if is_form else _raw_body()
        storage = _storage()
        stored = storage.write(iter(lambda: stream.read(CHUNK), b""), limit=limit)
        if stored.size == 0 and not name:
            storage.delete(stored.key)
            fault = {"pointer": "", "message": "The body is empty."}
            detail = "Nothing was sent. Send the file as the body, or as the part `file` of a form; name an empty one."
            raise Problem(422, "invalid", detail, errors=[fault])
        artifact = add_upload(
            storage,
            NewArtifact(
                id=uuid7(),
                tenant_id=principal().tenant_id,
                job_id=None,
                name=name or "unnamed",
                content_type=content_type,
                stored=stored,
            ),
        )
        shown = present(artifact)
        return shown, 201, {"Location": shown["links"]["self"]}


@blp.route("/artifacts/<string:artifact_id>")
class OneArtifact(MethodView):
    """One artifact."""

    @requires(Scope.ARTIFACTS_READ)
    @blp.response(200, ArtifactSchema)
    def get(self, artifact_id: str) -> Any:
        """Look at an artifact."""
        return present(_owned_artifact(artifact_id))

    @requires(Scope.ARTIFACTS_WRITE)
    @blp.response(204)
    @blp.alt_response(409, description="an unfinished job uses it")
    def delete(self, artifact_id: str) -> None:
        """Delete an artifact. 409 while an unfinished job names it in its arguments."""
        artifact = _owned_artifact(artifact_id)
        try:
            delete_artifact(_storage(), artifact.tenant_id, artifact.id)
        except ArtifactNotFound:
            raise not_found("artifact") from None
        except ArtifactInUse as use:
            detail = f"The unfinished job {use.job_id} uses this artifact. Cancel the job, or wait for its end."
            raise Problem(409, "in-use", detail) from None


@blp.route("/artifacts/<string:artifact_id>/content")
class ArtifactContent(MethodView):
    """An artifact's bytes."""

    @requires(Scope.ARTIFACTS_READ)
    @blp.doc(
        responses={
            "200": {"description": "the bytes", "content": {"application/octet-stream": {}}},
            "206": {"description": "the range that was asked for"},
            "304": {"description": "the client has it already"},
            "416": {"description": "the file has no such range"},
        }
    )
    def get(self, artifact_id: str) -> Any:
        """Download an artifact. `Range` is supported."""
        artifact = _owned_artifact(artifact_id)
        path = _storage().path(artifact.storage_key)
        if not path.is_file():
            raise not_found("artifact")
        # Always as an attachment: a page that a tenant uploaded must never run on our origin.
        response = send_file(
            path,
            mimetype=artifact.content_type,
            as_attachment=True,
            download_name=artifact.name,
            etag=artifact.sha256,
            conditional=True,
        )
        response.headers["Cache-Control"] = "private, max-age=3600"
        return response


@blp.route("/jobs/<string:job_id>/artifacts")
class JobArtifacts(MethodView):
    """What a job made."""

    @requires(Scope.ARTIFACTS_READ)
    @blp.response(200, ArtifactListSchema)
    def get(self, job_id: str) -> Any:
        """List the artifacts that a job made; they appear when it succeeds."""
        job = owned_job(job_id)
        return {"items": [present(artifact) for artifact in artifacts_of_job(job["tenant_id"], job["id"])]}


def present(artifact: Artifact) -> dict[str, Any]:
    """What `ArtifactSchema` dumps."""
    path = f"/api/v1/artifacts/{artifact.id}"
    return {
        "id": artifact.id,
        "name": artifact.name,
        "content_type": artifact.content_type,
        "size": artifact.size,
        "sha256": artifact.sha256,
        "job_id": artifact.job_id,
        "created_at": artifact.created_at,
        "links": {"self": path, "content": f"{path}/content"},
    }


def _owned_artifact(path_part: str) -> Artifact:
    try:
        return get_artifact(principal().tenant_id, UUID(path_part))
    except (ValueError, ArtifactNotFound):
        raise not_found("artifact") from None


def _storage() -> ArtifactStorage:
    return ArtifactStorage(Path(current_app.config["ARTIFACT_DIR"]))


def _raw_body() -> tuple[str, str, IO[bytes]]:
    if request.mimetype == "application/x-www-form-urlencoded":
        # What curl's -d says of any body, having taken the line breaks out of it.
        detail = (
            "This is a type of forms, not of files. Send the file as a part (curl -F file=@t.csv), or as it is "
            "with its own type (curl --data-binary @t.csv -H 'Content-Type: text/csv')."
        )
        raise Problem(415, "unsupported-media-type", detail)
    disposition = request.headers.get("Content-Disposition", "")
    with suppress(UnicodeError):  # then it is what WSGI takes all headers for: Latin-1
        disposition = disposition.encode("latin-1").decode()
    _, options = parse_options_header(disposition)
    return _clean_name(options.get("filename")), _clean_type(request.mimetype), request.stream


def _form_part() -> tuple[str, str, IO[bytes]]:
    part = request.files.get("file")
    if part is None:
        fault = {"pointer": "/file", "message": "The form has no part named file."}
        raise Problem(422, "invalid", "Send the file as the part `file` of the form.", errors=[fault])
    return _clean_name(part.filename), _clean_type(part.mimetype), part.stream


def _clean_name(name: str | None) -> str:
    """The last part of the name that the client gave, without control characters, at most 200; may be empty."""
    last = (name or "").replace("\\", "/").rpartition("/")[2]
    cleaned = "".join(character for character in last if character.isprintable()).strip()
    return cleaned[-200:]


_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}", re.ASCII)


def _clean_type(content_type: str) -> str:
    """The media type that the client gave (RFC 6838, 4.2); bytes of any kind where it gave none or no proper one."""
    return content_type if _MEDIA_TYPE.fullmatch(content_type) else "application/octet-stream"
