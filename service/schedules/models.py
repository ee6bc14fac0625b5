"""Schedules and the slots that they fired."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text, UniqueConstraint, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from service.extensions import Base
from service.ids import uuid7


class Schedule(Base):
    """A timetable entry: makes a job of one type, with fixed arguments, at each of its slots."""

    __tablename__ = "schedules"
    __table_args__ = (
        UniqueConstraint("tenant_id", "name", name="uq_schedules_tenant_id_name"),
        CheckConstraint("num_nonnulls(cron, every_seconds) = 1", name="cron_or_every"),
        CheckConstraint("catch_up IN ('none', 'latest', 'all')", name="catch_up"),
        CheckConstraint("every_seconds > 0", name="every_seconds"),
        Index("ix_schedules_due", "next_slot_at", postgresql_where=text("enabled")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    tenant_id: Mapped[UUID] = mapped_column(ForeignKey("tenants.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    args: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    cron: Mapped[str | None] = mapped_column(Text)
    every_seconds: Mapped[int | None]
    timezone: Mapped[str] = mapped_column(Text, server_default="UTC")
    catch_up: Mapped[str] = mapped_column(Text, server_default="latest")
    """What to do about slots that passed while no clock ran: `all` fires each, `latest` the last of them however late
    it is, `none` the last of them only if it is less than a minute late."""
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    next_slot_at: Mapped[datetime]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class ScheduleTick(Base):
    """What became of one slot of a schedule. The primary key is what makes a slot fire once."""

    __tablename__ = "schedule_ticks"
    __table_args__ = (CheckConstraint("outcome IN ('fired', 'missed', 'failed')", name="outcome"),)

    schedule_id: Mapped[UUID] = mapped_column(ForeignKey("schedules.id", ondelete="CASCADE"), primary_key=True)
    slot: Mapped[datetime] = mapped_column(primary_key=True)
    outcome: Mapped[str] = mapped_column(Text)
    late_seconds: Mapped[float]
    job_id: Mapped[UUID | None]
    detail: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
