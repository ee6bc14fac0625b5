"""From an id in a path to the caller's own job."""

from uuid import UUID

from flask import current_app

from service.http.identity import caller_to_confirm, confirmed, principal
from service.http.problems import not_found
from service.jobs.queries import JobReader, look_at_job
from service.statements import Row


def job_id_from(path_part: str) -> UUID:
    """The id in a path. Raises Problem 404 for what is no id: it cannot name a job."""
    try:
        return UUID(path_part)
    except ValueError:
        raise not_found() from None


def owned_job(path_part: str) -> Row:
    """The caller's own job. Raises the same Problem 404 for unknown, malformed and other tenants' ids."""
    job = look_at_job(principal().tenant_id, job_id_from(path_part))
    if job is None:
        raise not_found()
    return job


def owned_job_of_known_key(path_part: str) -> Row:
    """The same for views that confirm the caller's key: one statement looks at both."""
    caller = caller_to_confirm()
    reader: JobReader = current_app.extensions["job_reader"]
    job = reader.look(caller.tenant_id, job_id_from(path_part), key_id=caller.key_id)
    if job is None:
        raise not_found()
    confirmed()
    return job
