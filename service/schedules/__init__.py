"""Stored timetables: a job at each slot, once."""
