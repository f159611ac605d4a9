"""The studies of `scaling.py`: each measures something, writes tables of it and judges it."""
