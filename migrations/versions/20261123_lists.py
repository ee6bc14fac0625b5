"""Indexes for lists of a tenant's unfinished jobs, of those that ended without success, and of a schedule's."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UNFINISHED = "state IN ('queued', 'retrying', 'running', 'scheduled', 'waiting')"
NOT_SUCCEEDED = "state IN ('cancelled', 'expired', 'failed')"


def upgrade() -> None:
    """Upgrade; compatible with the previous release."""
    op.create_index("ix_jobs_unfinished", "jobs", ["tenant_id", "id"], postgresql_where=sa.text(UNFINISHED))
    op.create_index(
        "ix_jobs_schedule", "jobs", ["schedule_id", "id"], postgresql_where=sa.text("schedule_id IS NOT NULL")
    )
    op.create_index("ix_jobs_not_succeeded", "jobs", ["tenant_id", "id"], postgresql_where=sa.text(NOT_SUCCEEDED))


def downgrade() -> None:
    """Lists read all of a tenant's jobs again."""
    op.drop_index("ix_jobs_schedule", table_name="jobs")
    op.drop_index("ix_jobs_not_succeeded", table_name="jobs")
    op.drop_index("ix_jobs_unfinished", table_name="jobs")
