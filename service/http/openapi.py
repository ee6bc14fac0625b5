"""The OpenAPI document: generated from the schemas that validate, completed with what they cannot say."""

import copy
from typing import Any

from apispec import APISpec

from service.http.problems import PROBLEM_JSON
from service.jobs.type_catalogue import add_to_openapi, submit_examples

OPENAPI_SETTINGS = {
    "API_TITLE": "Millrace",
    "API_VERSION": "v1",
    "OPENAPI_VERSION": "3.1.0",
    "API_SPEC_OPTIONS": {
        "info": {
            "description": "Asynchronous jobs over HTTP. A job answered with 2xx is never lost and never takes effect "
            "twice. Repeat a submission with the same `Idempotency-Key` whenever its answer was a timeout or a 5xx.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "security": [{"apiKey": []}],
        "components": {
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "`millrace key create --tenant NAME`"}
            }
        },
    },
}

IDEMPOTENCY_KEY = {
    "in": "header",
    "name": "Idempotency-Key",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "description": "Repeat a request with the same key and it has one effect. Kept for 72 hours.",
}
PREFER = {
    "in": "header",
    "name": "Prefer",
    "schema": {"type": "string", "example": "wait=10"},
    "description": "`wait=N`: answer when the job has ended, or after N seconds (at most 60).",
}
SUBMITTING = ("/api/v1/jobs", "/api/v1/jobs/{job_id}/retry")
EVERYWHERE = {"400": "malformed", "401": "no valid key", "403": "the key lacks the scope", "503": "try again later"}


def complete_document(spec: APISpec) -> None:
    """Put in the job types, the headers and the errors that every route can answer with."""
    # apispec 6.10 writes each document's components into its options, which here are one dict for all apps.
    spec.options = copy.deepcopy(spec.options)
    names = add_to_openapi(spec)
    generated = spec.to_dict

    def to_dict() -> dict[str, Any]:
        return _completed(generated(), names)

    spec.to_dict = to_dict  # type: ignore[method-assign] # one document, whoever asks for it


def _completed(document: dict[str, Any], args_components: list[str]) -> dict[str, Any]:
    document = copy.deepcopy(document)  # the spec hands out its own dicts
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if method in {"get", "post", "put", "patch", "delete"}:
                _complete_operation(path, method, operation)
    submit = document["paths"]["/api/v1/jobs"]["post"]["requestBody"]["content"]["application/json"]
    submit["examples"] = submit_examples()
    args = document["components"]["schemas"]["NewJob"]["properties"]["args"]
    args["anyOf"] = [{"$ref": f"#/components/schemas/{name}"} for name in args_components]
    return document


def _complete_operation(path: str, method: str, operation: dict[str, Any]) -> None:
    parameters = operation.setdefault("parameters", [])
    if method == "post" and path in SUBMITTING:
        parameters += [IDEMPOTENCY_KEY, PREFER]
    responses = operation["responses"]
    for status, description in EVERYWHERE.items():
        responses.setdefault(status, {"description": description})
    if "{" in path:
        responses.setdefault("404", {"description": "unknown, or another tenant's"})
    if "requestBody" in operation:
        responses.setdefault("413", {"description": "the body is too large"})
        responses.setdefault("415", {"description": "another content type than documented"})
    if method == "post" and path.startswith("/api/v1/jobs"):
        responses.setdefault("409", {"description": "in conflict with the job's state or with an unfinished job"})
        responses.setdefault("422", {"description": "not valid; `errors` says where"})
    for status, response in list(responses.items()):
        if status == "default":
            del responses[status]  # flask-smorest's catch-all; ours are listed one by one
        elif status >= "400":
            problem = {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}
            responses[status] = {"description": response.get("description", status), "content": problem}
