"""What a key may be allowed to do. Pure."""

from enum import StrEnum


class Scope(StrEnum):
    """A right that a route asks for and a key carries."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    ARTIFACTS_READ = "artifacts:read"
    ARTIFACTS_WRITE = "artifacts:write"
    ADMIN = "admin"
    """Everything of the tenant, tracebacks and steering of queues included."""


ALL_SCOPES = tuple(Scope)
