"""Aimed attacks: each must cost its author more than the server."""
