"""Jobs and clusters on Kubernetes, through the Dask operator."""
