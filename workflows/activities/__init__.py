"""The only code of the stories that touches the world."""
