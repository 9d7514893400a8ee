"""The HTTP API: SECA's conventions over the use cases."""
