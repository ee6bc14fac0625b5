"""Fire due schedules: the job, the slot's row and the next slot are written in one transaction, once."""

import logging
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.orm import Session

from service.jobs.new_job import InvalidJob, NewJob, check
from service.jobs.submit import store
from service.schedules.slots import due_slots, slots_after
from service.transaction import transaction

log = logging.getLogger(__name__)

CATCH_UP_LIMIT = 1000
"""Most slots of one schedule that one round looks at; the rest follow in the next round."""

# `SKIP LOCKED`: of two clocks each schedule is looked at by one; the slot's primary key is what makes it fire once.
_DUE = text(
    """
    SELECT *, clock_timestamp() AS now FROM schedules
     WHERE enabled AND next_slot_at <= statement_timestamp()
     ORDER BY next_slot_at LIMIT 1 FOR UPDATE SKIP LOCKED
    """
)
_TICK = text(
    """
    INSERT INTO schedule_ticks (schedule_id, slot, outcome, late_seconds, job_id, detail)
    VALUES (:schedule_id, :slot, :outcome, :late_seconds, :job_id, :detail)
    ON CONFLICT (schedule_id, slot) DO NOTHING
    """
)
_CLAIM_SLOT = text(
    """
    INSERT INTO schedule_ticks (schedule_id, slot, outcome, late_seconds)
    VALUES (:schedule_id, :slot, 'fired', :late_seconds)
    ON CONFLICT (schedule_id, slot) DO NOTHING RETURNING slot
    """
)
_ADVANCE = text("UPDATE schedules SET next_slot_at = :next_slot_at WHERE id = :id")


@dataclass(frozen=True)
class Fired:
    """A slot that became a job."""

    schedule_id: UUID
    slot: datetime
    job_id: UUID


def fire_due(*, at_most: int = 100) -> list[Fired]:
    """Fire the schedules whose slot was reached, one transaction each; returns what was fired."""
    fired: list[Fired] = []
    for _ in range(at_most):
        with transaction("fire") as session:
            schedule = session.execute(_DUE).mappings().first()
            if schedule is None:
                break
            fired += _fire(session, schedule)
    return fired


def _fire(session: Session, schedule: RowMapping) -> list[Fired]:
    times = {"cron": schedule["cron"], "every_seconds": schedule["every_seconds"], "timezone": schedule["timezone"]}
    now = schedule["now"]
    due = due_slots(schedule["next_slot_at"], now, **times, at_most=CATCH_UP_LIMIT)
    latest = due[-1]
    following = next(slots_after(latest, **times))
    if following <= now:  # more slots passed than one round looks at
        firing = due if schedule["catch_up"] == "all" else []
    else:
        firing = _slots_to_fire(schedule["catch_up"], due, now)
    fired = [job for slot in due if slot in firing and (job := _fire_slot(session, schedule, slot))]
    for slot in due:
        if slot not in firing:
            late = (now - slot).total_seconds()
            session.execute(
                _TICK,
                {
                    "schedule_id": schedule["id"],
                    "slot": slot,
                    "outcome": "missed",
                    "late_seconds": late,
                    "job_id": None,
                    "detail": f"No clock ran at the time; the catch-up rule is {schedule['catch_up']!r}.",
                },
            )
    session.execute(_ADVANCE, {"id": schedule["id"], "next_slot_at": following})
    return fired


ON_TIME_SECONDS = 60.0
"""A slot this little late is on time: the rule of catching up is about clocks that were down."""


def _slots_to_fire(catch_up: str, due: list[datetime], now: datetime) -> list[datetime]:
    if catch_up == "all":
        return due
    if catch_up == "latest" or (now - due[-1]).total_seconds() <= ON_TIME_SECONDS:
        return due[-1:]
    return []


def _fire_slot(session: Session, schedule: RowMapping, slot: datetime) -> Fired | None:
    """Take the slot and store its job. None: another clock fired it, or its arguments do not load any more."""
    late = (schedule["now"] - slot).total_seconds()
    taken = session.execute(_CLAIM_SLOT, {"schedule_id": schedule["id"], "slot": slot, "late_seconds": late}).first()
    if taken is None:
        return None
    new = NewJob(type=schedule["type"], args=schedule["args"], schedule_id=schedule["id"])
    try:
        submitted = store(session, schedule["tenant_id"], new, check(new))
    except InvalidJob as error:
        log.error("schedule %s cannot fire: %s", schedule["id"], error.errors)  # noqa: TRY400 - no traceback needed
        session.execute(
            text(
                "UPDATE schedule_ticks SET outcome = 'failed', detail = :detail "
                "WHERE schedule_id = :schedule_id AND slot = :slot"
            ),
            {"schedule_id": schedule["id"], "slot": slot, "detail": f"The job is not valid: {error.errors}"},
        )
        return None
    job_id = submitted.job["id"]
    session.execute(
        text("UPDATE schedule_ticks SET job_id = :job_id WHERE schedule_id = :schedule_id AND slot = :slot"),
        {"schedule_id": schedule["id"], "slot": slot, "job_id": job_id},
    )
    return Fired(schedule["id"], slot, job_id)
