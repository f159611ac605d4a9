"""implicit, with three steps of conjugate gradients a row (its default)."""

from functools import partial

from common import Peer, run
from implicit_als import MODEL, TIMED_BY, train

run(
    Peer(
        name="implicit, CG",
        package="implicit",
        model=MODEL,
        solver="3 CG steps",
        dtype="float32",
        timed_by=TIMED_BY,
    ),
    partial(train, use_cg=True),
)
