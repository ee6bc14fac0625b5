"""Idempotency records remember which of their jobs existed already, so that a repeat is answered as the first was."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Upgrade; compatible with the previous release, which leaves the column empty."""
    op.add_column("idempotency_keys", sa.Column("existing", sa.ARRAY(sa.Boolean())))


def downgrade() -> None:
    """Forget it."""
    op.drop_column("idempotency_keys", "existing")
