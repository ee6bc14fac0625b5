"""What a key may be allowed to do. Pure."""

from enum import StrEnum


class Scope(StrEnum):
    """A right that a route asks for and a key carries."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    ARTIFACTS_READ = "artifacts:read"
    ARTIFACTS_WRITE = "artifacts:write"
    ADMIN = "admin"
    """Everything of the tenant, tracebacks included."""
    OPERATOR = "operator"
    """Steers what all tenants share: pauses queues and job types, reads the integrity report."""


TENANT_SCOPES = tuple(scope for scope in Scope if scope is not Scope.OPERATOR)
"""What a tenant's own key gets where nothing else was asked for."""
