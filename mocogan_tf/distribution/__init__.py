"""Devices, machines, and what their workers agree on."""
