"""Clips: where they come from, how they are read, cut and batched."""
