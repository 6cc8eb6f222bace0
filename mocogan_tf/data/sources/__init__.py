"""Clips as people have them: folder layouts, archives, videos, frames and arrays."""
