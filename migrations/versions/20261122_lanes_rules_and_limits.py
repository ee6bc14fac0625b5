"""Lanes for the dispatcher; rules and limits of queues and job types; a count of repairs."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Upgrade; compatible with the previous release."""
    op.create_table(
        "dispatch_rules",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("rate_count", sa.Integer(), nullable=True),
        sa.Column("rate_seconds", sa.Double(), nullable=True),
        sa.Column("updated_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("kind IN ('queue', 'type')", name=op.f("ck_dispatch_rules_kind")),
        sa.CheckConstraint("max_running > 0", name=op.f("ck_dispatch_rules_max_running")),
        sa.CheckConstraint("num_nulls(rate_count, rate_seconds) IN (0, 2)", name=op.f("ck_dispatch_rules_whole_rate")),
        sa.CheckConstraint("rate_count > 0 AND rate_seconds > 0", name=op.f("ck_dispatch_rules_rate")),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_dispatch_rules")),
    )
    op.create_table(
        "rate_buckets",
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Double(), nullable=False),
        sa.Column("filled_at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.PrimaryKeyConstraint("type", name=op.f("pk_rate_buckets")),
    )
    op.create_table(
        "repairs",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "kind", name=op.f("pk_repairs")),
    )
    op.alter_column("jobs", "token", type_=sa.BigInteger())
    op.alter_column("job_attempts", "token", type_=sa.BigInteger())
    op.add_column("idempotency_keys", sa.Column("job_ids", sa.ARRAY(sa.Uuid()), nullable=True))
    op.add_column("jobs", sa.Column("concurrency_key", sa.Text(), nullable=True))
    op.drop_index(
        op.f("ix_jobs_to_ring"), table_name="jobs", postgresql_where="((state = 'queued'::text) AND (rung_at IS NULL))"
    )
    op.create_index(
        "ix_jobs_lanes",
        "jobs",
        [
            "queue",
            "type",
            "tenant_id",
            sa.literal_column("COALESCE(concurrency_key, '')"),
            sa.literal_column("priority DESC"),
            "id",
        ],
        unique=False,
        postgresql_where=sa.text("state = 'queued' AND rung_at IS NULL"),
    )


def downgrade() -> None:
    """Downgrade."""
    op.drop_index("ix_jobs_lanes", table_name="jobs", postgresql_where=sa.text("state = 'queued' AND rung_at IS NULL"))
    op.create_index(
        op.f("ix_jobs_to_ring"),
        "jobs",
        ["queue", sa.literal_column("priority DESC"), "id"],
        unique=False,
        postgresql_where="((state = 'queued'::text) AND (rung_at IS NULL))",
    )
    op.drop_column("jobs", "concurrency_key")
    op.drop_column("idempotency_keys", "job_ids")
    op.alter_column("job_attempts", "token", type_=sa.Integer())
    op.alter_column("jobs", "token", type_=sa.Integer())
    op.drop_table("repairs")
    op.drop_table("rate_buckets")
    op.drop_table("dispatch_rules")
