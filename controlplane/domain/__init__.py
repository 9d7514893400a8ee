"""The nouns of fedctl: plain frozen data that every other package may import."""
