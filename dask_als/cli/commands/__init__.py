"""The commands of ``dask-als``, one a module; each imports what it runs only when it runs."""
