"""Watching a training: what it is doing now, on a page, as metrics, and back to the driver."""
