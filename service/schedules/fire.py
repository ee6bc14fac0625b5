"""Fire due schedules: the job, the slot's row and the next slot are written in one transaction, once."""

import logging
import time
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from service.jobs.new_job import InvalidJob, NewJob, check
from service.jobs.submit import store
from service.schedules.slots import due_slots, slots_after
from service.transaction import is_refusal, transaction

log = logging.getLogger(__name__)

CATCH_UP_LIMIT = 100
"""Most slots of one schedule that are looked at together; then it is the others' turn."""
FIRING_SECONDS = 0.5
"""For so long a round fires, however much is due: rings wait behind it."""
LEFT_ALONE_SECONDS = 60.0
"""So long nobody looks at a schedule that could not be fired."""

# `SKIP LOCKED`: of two clocks each schedule is looked at by one; the slot's primary key is what makes it fire once.
_DUE = text(
    """
    SELECT *, clock_timestamp() AS now FROM schedules
     WHERE enabled AND next_slot_at <= statement_timestamp() AND id <> ALL(CAST(:left_alone AS uuid[]))
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


class Firing:
    """Fires schedules. Remembers which not to look at for now, so that none holds up the others or fills the log."""

    def __init__(self) -> None:
        self._cannot: dict[UUID, float] = {}
        """Could not be fired, and until when on the monotonic clock nobody tries again."""
        self._had_their_turn: set[UUID] = set()
        """Are far behind, and go on once the others have had theirs."""

    def fire_due(self) -> list[Fired]:
        """Fire the schedules whose slot was reached, one transaction each; returns what was fired.

        One that cannot be (a cron line or a time zone that does not read) is logged and looked at again in a minute.
        """
        fired: list[Fired] = []
        now = began = time.monotonic()
        self._cannot = {known: until for known, until in self._cannot.items() if until > now}
        while time.monotonic() - began < FIRING_SECONDS:
            schedule: RowMapping | None = None
            try:
                with transaction("fire") as session:
                    left_alone = [*self._cannot, *self._had_their_turn]
                    schedule = session.execute(_DUE, {"left_alone": left_alone}).mappings().first()
                    done, is_behind = _fire(session, schedule) if schedule is not None else ([], False)
            except Exception as error:
                if schedule is None or (isinstance(error, SQLAlchemyError) and not is_refusal(error)):
                    raise
                log.exception("schedule %s could not be fired, next try in a minute", schedule["id"])
                self._cannot[schedule["id"]] = time.monotonic() + LEFT_ALONE_SECONDS
                continue
            fired += done
            if schedule is not None and is_behind:
                self._had_their_turn.add(schedule["id"])
            elif schedule is None and self._had_their_turn:
                self._had_their_turn.clear()
            elif schedule is None:
                break
        return fired


def _fire(session: Session, schedule: RowMapping) -> tuple[list[Fired], bool]:
    """Fire what is due of one schedule; and whether it is so far behind that more is due than was looked at."""
    times = {"cron": schedule["cron"], "every_seconds": schedule["every_seconds"], "timezone": schedule["timezone"]}
    now = schedule["now"]
    due = due_slots(schedule["next_slot_at"], now, **times, at_most=CATCH_UP_LIMIT)
    latest = due[-1]
    following = next(slots_after(latest, **times))
    is_behind = following <= now
    if is_behind:
        firing = due if schedule["catch_up"] == "all" else []
    else:
        firing = _slots_to_fire(schedule["catch_up"], due, now)
    fired = [job for slot in firing if (job := _fire_slot(session, schedule, slot))]
    missed = [
        {
            "schedule_id": schedule["id"],
            "slot": slot,
            "outcome": "missed",
            "late_seconds": (now - slot).total_seconds(),
            "job_id": None,
            "detail": f"No clock ran at the time; the catch-up rule is {schedule['catch_up']!r}.",
        }
        for slot in due
        if slot not in firing
    ]
    if missed:
        session.execute(_TICK, missed)
    session.execute(_ADVANCE, {"id": schedule["id"], "next_slot_at": following})
    return fired, is_behind


ON_TIME_SECONDS = 60.0
"""A slot this little late is on time: the rule of catching up, `none` included, is about clocks that were down."""


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
