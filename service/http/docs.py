"""`/openapi.json` and `/docs`: the document and Swagger UI, from our own files, under our own policy."""

from pathlib import Path

from flask import Blueprint, Response, current_app, redirect, send_from_directory
from werkzeug.wrappers import Response as BaseResponse

blp = Blueprint("api-docs", __name__)

SWAGGER_FOLDER = Path(__file__).parent / "swagger"


@blp.get("/openapi.json")
def openapi_json() -> Response:
    """The OpenAPI document."""
    return Response(current_app.json.dumps(current_app.extensions["openapi"].to_dict()), mimetype="application/json")


@blp.get("/")
@blp.get("/docs")
def docs_redirect() -> BaseResponse:
    """The page lives in a folder, so that its assets have relative names."""
    return redirect("docs/")


@blp.get("/docs/", defaults={"filename": "index.html"})
@blp.get("/docs/<path:filename>")
def swagger_ui(filename: str) -> Response:
    """Swagger UI and its assets."""
    return send_from_directory(SWAGGER_FOLDER, filename, max_age=3600)
