"""Endpoints, a file for each group of paths."""
