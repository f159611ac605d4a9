"""The commands of ``dask-als``, one per module; each imports its implementation when it runs."""
