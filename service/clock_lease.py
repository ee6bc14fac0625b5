"""Which of several beats is the clock: a row with a lease, so that it works behind any connection pooler.

Two holders at once are possible (a paused process wakes up) and harmless: every statement of the clock guards itself.
The lease only keeps them from doing the same work twice.
"""

from sqlalchemy import text

from service.transaction import transaction

_ACQUIRE = text(
    """
    INSERT INTO clock_leases AS known (name, holder, lease_until)
    VALUES ('clock', :holder, clock_timestamp() + make_interval(secs => :seconds))
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, lease_until = excluded.lease_until
     WHERE known.holder = excluded.holder OR known.lease_until < clock_timestamp()
    RETURNING holder
    """
)
_RELEASE = text("UPDATE clock_leases SET lease_until = '-infinity' WHERE name = 'clock' AND holder = :holder")


def acquire_clock(holder: str, *, seconds: float) -> bool:
    """Become or remain the clock for so many seconds. False: another holder's lease still runs."""
    with transaction() as session:
        return session.execute(_ACQUIRE, {"holder": holder, "seconds": seconds}).first() is not None


def release_clock(holder: str) -> None:
    """Let the next beat take over at once, at a shutdown."""
    with transaction() as session:
        session.execute(_RELEASE, {"holder": holder})
