"""The clock: fires schedules, dispatches, rescues, expires and prunes."""
