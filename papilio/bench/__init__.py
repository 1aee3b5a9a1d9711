"""Collective benchmark: ``python -m papilio.bench --help``."""
