"""Everything that people and programs meet: the HTTP API, the image gateway, the command."""
