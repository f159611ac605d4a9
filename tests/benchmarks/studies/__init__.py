"""The studies of `scaling.py`: each takes measurements, writes tables and checks criteria."""
