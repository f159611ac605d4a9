"""dask_als with the ratings as confidences, the model of the package implicit."""

from __future__ import annotations

from functools import partial

from dask_als_epoch import peer, train

from common import run  # isort: skip

if __name__ == "__main__":
    run(
        peer("dask_als, implicit", "implicit feedback, no biases"),
        partial(train, feedback="implicit"),
    )
