"""One contract, many providers."""
