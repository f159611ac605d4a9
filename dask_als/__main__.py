"""Runs the command line: ``dask-als``, and ``python -m dask_als``."""

from __future__ import annotations

from dask_als.core.early_signals import end_on_interrupt


def main() -> None:
    """Run the command line and exit."""
    # Before the imports of click and Dask, which take most of a short command's time.
    end_on_interrupt()
    from dask_als.cli.main import main as run_command

    run_command()


if __name__ == "__main__":
    main()
