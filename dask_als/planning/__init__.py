"""Estimate the memory, disk space and time that a training needs."""
