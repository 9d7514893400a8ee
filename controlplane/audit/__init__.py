"""The tamper-evident log: leaves, tree heads, checkpoints, offline verification."""
