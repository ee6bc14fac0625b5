"""Job types as JSON Schema: for the OpenAPI document and `GET /job-types`."""

import re
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from service.jobs.types import JobType, registry

_catalogue: dict[type, dict[str, Any]] = {}


def component_name(job_type: JobType) -> str:
    """The name under which a type's arguments stand in the OpenAPI document: `http.request` -> `HttpRequestArgs`."""
    return "".join(part.capitalize() for part in re.split(r"[._-]", job_type.name)) + "Args"


def args_schema(job_type: JobType) -> dict[str, Any]:
    """JSON Schema of the type's arguments, self-contained."""
    if job_type.args not in _catalogue:
        spec = APISpec("", "", "3.1.0", plugins=[MarshmallowPlugin()])
        spec.components.schema("Args", schema=job_type.args)
        schemas = spec.to_dict()["components"]["schemas"]
        schema = {**schemas.pop("Args"), "additionalProperties": False}
        if schemas:
            schema["$defs"] = schemas
        _catalogue[job_type.args] = _rebased(schema)
    return _catalogue[job_type.args]


def _rebased(value: Any) -> Any:
    """References point into the schema itself instead of an OpenAPI document."""
    if isinstance(value, dict):
        return {
            key: inner.replace("#/components/schemas/", "#/$defs/") if key == "$ref" else _rebased(inner)
            for key, inner in value.items()
        }
    return [_rebased(inner) for inner in value] if isinstance(value, list) else value


def describe_type(job_type: JobType) -> dict[str, Any]:
    """What `JobTypeSchema` dumps."""
    return {
        "name": job_type.name,
        "description": job_type.description,
        "queue": job_type.queue.value,
        "timeout": job_type.timeout_seconds,
        "max_attempts": job_type.max_attempts,
        "retry": {
            "backoff_seconds": job_type.retry.retry_backoff,
            "backoff_max_seconds": job_type.retry.retry_backoff_max,
            "jitter": job_type.retry.retry_jitter,
        },
        "args_schema": args_schema(job_type),
        "example": dict(job_type.example),
    }


def add_to_openapi(spec: APISpec) -> list[str]:
    """Put every type's arguments into the OpenAPI document; returns the names under which they stand there."""
    names: dict[type[Schema], str] = {}  # two types may share one schema
    for job_type in registry:
        if job_type.args not in names:
            names[job_type.args] = component_name(job_type)
            spec.components.schema(names[job_type.args], schema=job_type.args)
    return list(names.values())


def submit_examples() -> dict[str, Any]:
    """One request body per job type, for `POST /jobs`."""
    return {
        job_type.name: {"value": {"type": job_type.name, "args": dict(job_type.example)}}
        for job_type in registry
        if job_type.example
    }
