"""Durable records of runs and content-addressed copies of their sources."""
