"""A past for tenants that have none."""

from flask import Flask

from service.transaction import reading
from tests.support.database import execute

AT_A_TIME = 100_000
"""Most rows put in with one statement, whose time is bounded."""


def store_history(app: Flask, count: int, *, days: int) -> None:
    """Finished jobs and uploads of one tenant, spread over the last days, their ids as old as they are; vacuumed."""
    milliseconds = "CAST(EXTRACT(epoch FROM at) * 1000 AS bigint)"
    made = f"""
        (SELECT CAST(lpad(to_hex({milliseconds}), 12, '0') || lpad(to_hex(n), 20, '0') AS uuid) AS id,
                tenants.id AS tenant_id, n, at
           FROM (SELECT n, clock_timestamp() - n * make_interval(days => :days) / :count AS at
                   FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS n) AS moment,
                (SELECT id FROM tenants LIMIT 1) AS tenants) AS made
    """  # noqa: S608 - only our own text is put in
    for first in range(1, count + 1, AT_A_TIME):
        bounds = {"count": count, "days": days, "first": first, "last": min(first + AT_A_TIME - 1, count)}
        execute(
            app,
            f"""
            INSERT INTO jobs (id, tenant_id, type, queue, state, args, max_attempts, timeout_seconds, created_at,
                              finished_at)
            SELECT id, tenant_id, 'test.echo', 'default', 'succeeded', '{{}}', 3, 60, at, at FROM {made}
            """,  # noqa: S608
            **bounds,
        )
        execute(
            app,
            f"""
            INSERT INTO artifacts (id, tenant_id, name, content_type, size, sha256, storage_key, created_at)
            SELECT id, tenant_id, 'table.csv', 'text/csv', 1, '', CAST(n AS text), at FROM {made}
            """,  # noqa: S608
            **bounds,
        )
    with app.app_context(), reading() as session:
        session.connection().exec_driver_sql("VACUUM (ANALYZE) jobs, artifacts")
