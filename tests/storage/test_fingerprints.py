from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medsoft.storage.fingerprints import array_hash, row_hash


def test_byte_order_and_memory_layout_do_not_change_the_hash():
    array = np.arange(24, dtype="<u2").reshape(4, 6)
    assert array_hash(array) == array_hash(array.astype(">u2")) == array_hash(np.asfortranarray(array))


def test_one_value_another_shape_or_another_type_changes_the_hash():
    array = np.arange(24, dtype=np.uint16).reshape(4, 6)
    other = array.copy()
    other[2, 3] += 1
    same_bytes = array.view(np.uint8).reshape(4, 12)
    assert len({array_hash(a) for a in (array, other, array.reshape(6, 4), same_bytes, array.astype(float))}) == 5


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_rows_have_one_hash_only_where_their_values_are_equal(one, other):
    assert (row_hash(*one) == row_hash(*other)) == (one == other)
