"""cmfrec, solving every row exactly."""

from functools import partial

from cmfrec_als import MODEL, TIMED_BY, train
from common import Peer, run

run(
    Peer(
        name="cmfrec, Cholesky",
        package="cmfrec",
        model=MODEL,
        solver="exact",
        dtype="float32",
        timed_by=TIMED_BY,
    ),
    partial(train, use_cg=False),
)
