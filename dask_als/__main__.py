"""Runs the command line: ``python -m dask_als``."""

from dask_als.cli.main import main

if __name__ == "__main__":
    main()
