"""Measurements, by `make bench`: what is promised in seconds and bytes is measured, not asserted."""
