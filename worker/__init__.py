"""The worker: runs jobs, one claimed attempt at a time."""
