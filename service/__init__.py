"""The Flask service: everything that knows jobs."""
