"""Keys that the customer holds, and everything that they wrap."""
