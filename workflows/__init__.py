"""Durable stories and the activities that they are made of."""
