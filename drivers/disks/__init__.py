"""Streams of disk bytes in the formats that providers use."""
