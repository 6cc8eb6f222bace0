"""Sets that are rendered on the spot."""
