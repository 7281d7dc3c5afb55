"""Counters by which threads that run compiled code wait for each other.

Importing this module imports numba, which takes seconds.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic


# numba has no atomic loads and stores for threads of the CPU. Plain ones could be moved or left out
# by the compiler, and seen in another order by other cores.
def _load_counter(typing, address):  # type: ignore[no-untyped-def]
    """Read a counter of another thread, and so all that it wrote before it set the counter."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.intp), generate


def _store_counter(typing, address, value):  # type: ignore[no-untyped-def]
    """Set the counter of this thread, after all that it has written."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store_atomic(arguments[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), generate


load_counter: Any = intrinsic(_load_counter)
store_counter: Any = intrinsic(_store_counter)
