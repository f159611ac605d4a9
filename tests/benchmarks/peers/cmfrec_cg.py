"""cmfrec, with three steps of conjugate gradients a row (its default)."""

from functools import partial

from cmfrec_als import MODEL, TIMED_BY, train
from common import Peer, run

run(
    Peer(
        name="cmfrec, CG",
        package="cmfrec",
        model=MODEL,
        solver="3 CG steps",
        dtype="float32",
        timed_by=TIMED_BY,
    ),
    partial(train, use_cg=True),
)
