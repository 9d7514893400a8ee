"""The image gateway: recovery points as image files over HTTP."""
