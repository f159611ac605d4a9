"""implicit, solving every row exactly."""

from functools import partial

from common import Peer, run
from implicit_als import MODEL, TIMED_BY, train

run(
    Peer(
        name="implicit, Cholesky",
        package="implicit",
        model=MODEL,
        solver="exact",
        dtype="float32",
        timed_by=TIMED_BY,
    ),
    partial(train, use_cg=False),
)
