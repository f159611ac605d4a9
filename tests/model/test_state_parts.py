"""The Arrow files of samples and reductions."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dask_als.core.blocks import Factors
from dask_als.core.side import ITEMS, USERS
from dask_als.errors import InputError
from dask_als.model import state_parts


def states():
    rank, dtype = st.integers(1, 9), st.sampled_from(["float32", "float64"])
    return st.tuples(st.integers(1, 20), rank, dtype).flatmap(
        lambda its: st.builds(Factors, arrays(its[2], its[0]), arrays(its[2], its[:2]))
    )


@given(state=states())
def test_a_part_makes_the_trip(state):
    with tempfile.TemporaryDirectory() as sample:
        crc32 = state_parts.write_part(sample, ITEMS, 7, state)
        assert [path.name for path in Path(sample).glob("items/*")] == ["part-00007.arrow"]
        read = state_parts.read_part(sample, ITEMS, 7, crc32)
    assert read.bias.dtype == read.factors.dtype == state.bias.dtype
    assert read.bias.tobytes() == state.bias.tobytes()
    assert read.factors.shape == state.factors.shape
    assert read.factors.tobytes() == state.factors.tobytes()


@given(data=st.data())
def test_a_flipped_bit_anywhere(data):
    with tempfile.TemporaryDirectory() as sample:
        state = Factors(np.arange(5.0), np.arange(15.0).reshape(5, 3))
        crc32 = state_parts.write_part(sample, USERS, 0, state)
        path = Path(sample, "users", "part-00000.arrow")
        content = bytearray(path.read_bytes())
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"part-00000.arrow is damaged, .* CRC-32 differs"):
            state_parts.read_part(sample, USERS, 0, crc32)


def test_a_missing_part(tmp_path):
    with pytest.raises(InputError, match=r"items/part-00002.arrow is missing"):
        state_parts.read_part(str(tmp_path), ITEMS, 2, 0)
