"""The encrypted store of recovery points: chunks in packs, manifests as trees, signed heads."""
