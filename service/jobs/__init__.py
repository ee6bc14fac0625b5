"""The heart: what a job is, and every way its state may change."""
