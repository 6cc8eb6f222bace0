"""Sets that this project renders."""
