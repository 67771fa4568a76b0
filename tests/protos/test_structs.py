from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st

from protos.structs import encode_struct

scalars = st.none() | st.booleans() | st.text(max_size=200) | st.floats(allow_nan=False, allow_infinity=False)
scalars |= st.integers(-(2**53), 2**53)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=130), values, max_size=5))
def test_protobuf_reads_what_is_written(fields: dict[str, Any]) -> None:
    truth = Struct()
    truth.update(fields)
    assert Struct.FromString(encode_struct(fields)) == truth


def test_two_after_another_have_the_fields_of_both() -> None:
    both = Struct.FromString(encode_struct({"a": 1}) + encode_struct({"b": ["c"]}))
    assert MessageToDict(both) == {"a": 1.0, "b": ["c"]}


def test_a_value_that_no_struct_carries_is_refused() -> None:
    with pytest.raises(TypeError, match="carries no object"):
        encode_struct({"a": object()})
