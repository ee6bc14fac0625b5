"""Running in containers: what the image's entry point and its health checks do."""
