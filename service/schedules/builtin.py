"""Give every tenant the built-in schedules; whoever switched one off keeps it off."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import text

from service.ids import uuid7
from service.schedules.slots import slots_after
from service.transaction import to_jsonb, transaction


@dataclass(frozen=True)
class BuiltinSchedule:
    """A schedule that every tenant has from the start."""

    name: str
    type: str
    cron: str
    timezone: str = "UTC"
    catch_up: str = "latest"
    args: Mapping[str, Any] = field(default_factory=dict)


# The unique name per tenant makes this safe to run at any time, by any number of clocks.
_ADD = text(
    """
    INSERT INTO schedules (id, tenant_id, name, type, args, cron, timezone, catch_up, next_slot_at)
    VALUES (:id, :tenant_id, :name, :type, CAST(:args AS jsonb), :cron, :timezone, :catch_up, :next_slot_at)
    ON CONFLICT (tenant_id, name) DO NOTHING
    """
)
_LACKING = text(
    """
    SELECT id, clock_timestamp() AS now FROM tenants
     WHERE NOT EXISTS (SELECT FROM schedules WHERE schedules.tenant_id = tenants.id AND schedules.name = :name)
     ORDER BY id LIMIT 500
    """
)


def add_builtin_schedules(timetable: Iterable[BuiltinSchedule]) -> int:
    """Add what tenants lack; returns how many rows were looked at, so that zero means that nobody lacks any."""
    added = 0
    for entry in timetable:
        with transaction() as session:
            for tenant in session.execute(_LACKING, {"name": entry.name}).all():
                session.execute(_ADD, _row(entry, tenant.id, tenant.now))
                added += 1
    return added


def _row(entry: BuiltinSchedule, tenant_id: Any, now: datetime) -> dict[str, Any]:
    next_slot = next(slots_after(now, cron=entry.cron, every_seconds=None, timezone=entry.timezone))
    return {
        "id": uuid7(),
        "tenant_id": tenant_id,
        "name": entry.name,
        "type": entry.type,
        "args": to_jsonb(dict(entry.args)),
        "cron": entry.cron,
        "timezone": entry.timezone,
        "catch_up": entry.catch_up,
        "next_slot_at": next_slot,
    }
