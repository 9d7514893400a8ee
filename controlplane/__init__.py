"""Nouns, decisions, state, keys and audit of the control plane."""
