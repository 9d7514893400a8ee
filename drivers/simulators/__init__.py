"""Simulated sites: each package speaks one provider's own wire protocol and stores real bytes."""
