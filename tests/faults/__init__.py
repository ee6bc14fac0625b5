"""Faults injected into the real thing: what must survive does, and nothing is lost or doubled."""
