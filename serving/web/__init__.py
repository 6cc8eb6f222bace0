"""The HTTP server, its guards and its logs."""
