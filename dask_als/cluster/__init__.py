"""Where tasks run: the only part that knows Dask's client."""
