"""The whole stack on one machine: `millrace up`."""
