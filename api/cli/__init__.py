"""The command line: a client of the API that knows no internals."""
