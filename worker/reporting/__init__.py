"""Turning data into pages a person wants to read: figures, HTML and PDF."""
