"""Which job made a report, and when that job was accepted: the same at every attempt, unlike the clock."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID


@dataclass(frozen=True)
class Stamp:
    """A job's id and the moment that stands in it (UUIDv7: 48 bits of Unix milliseconds)."""

    job_id: UUID

    @property
    def moment(self) -> datetime:
        """When the job was accepted, in UTC, to the second."""
        return datetime.fromtimestamp((self.job_id.int >> 80) // 1000, tz=UTC)

    @property
    def words(self) -> str:
        """The moment for people."""
        return self.moment.strftime("%Y-%m-%d %H:%M UTC")
