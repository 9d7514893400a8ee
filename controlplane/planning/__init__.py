"""Pure decisions: facts in, a frozen plan out."""
