"""A pass over X: a function of each block, and the sum of its results in a fixed order.

The only Dask code on the way of a fit. Two engines with one face (`Blocks`): `LocalBlocks` runs
over slices of a NumPy array on threads; `DaskBlocks` runs one task per block on whatever scheduler
is active. Both sum in the same tree, which depends on the number of blocks and on nothing else, so
the bits do not depend on the engine, the workers or the order in which blocks finish.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import numpy as np
from dask.system import CPU_COUNT

from dnmf.cluster import active_client, compute_with
from dnmf.corpus import Corpus
from dnmf.errors import DataError
from dnmf.kernels import Invalid, find_invalid
from dnmf.layout import choose_block_rows, crc32c
from dnmf.threads import one_blas_thread

if TYPE_CHECKING:
    import dask.array as da

Array = np.ndarray[Any, np.dtype[Any]]
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

FAN_IN = 8
"""Results summed by one task: of a block's sums, which are d x p, no more are in one place."""


class Task(Protocol[Result_co]):
    """What is done to a block: a picklable function of its pixels and its first row in X."""

    def __call__(self, X: Array, start: int) -> Result_co:
        """Work on one block."""
        ...


class Blocks(Protocol):
    """X, cut into blocks of whole rows.

    Attributes
    ----------
    shape : tuple of int
        (n images, p pixels).
    dtype : numpy.dtype
        Of the pixels as stored.
    ranges : sequence of (start, stop)
        Rows of each block.
    """

    @property
    def shape(self) -> tuple[int, int]: ...  # noqa: D102

    @property
    def dtype(self) -> np.dtype[Any]: ...  # noqa: D102

    @property
    def ranges(self) -> Sequence[tuple[int, int]]: ...  # noqa: D102

    def map_sum(self, task: Task[Result], only: Sequence[int] | None = None) -> Result:
        """Read every block once, check it, apply `task` and add up what it returns.

        Parameters
        ----------
        task : callable ``(X_block, start) -> result``
            Pure but for writes that are safe to repeat; its results support ``+``.
        only : sequence of int, optional
            Blocks to read, in ascending order; all by default. Blocks of a sample are not
            checked: a pass over all of X follows, and names the first bad image of all.

        Raises
        ------
        DataError
            A pixel is negative, NaN or infinite.
        """
        ...


def add_up(results: Iterable[Result]) -> Result:
    """Sum in the fixed tree, holding at most `FAN_IN` results per level."""
    levels: list[list[Result]] = []
    for result in results:
        carry, level = result, 0
        while True:
            if level == len(levels):
                levels.append([])
            levels[level].append(carry)
            if len(levels[level]) < FAN_IN:
                break
            carry, levels[level], level = _add(levels[level]), [], level + 1
    rest: list[Result] = []
    for waiting in levels:
        rest = [_add(waiting + rest)] if waiting or rest else []
    return rest[0]


@dataclass(frozen=True)
class Outcome(Generic[Result]):
    """What a task made of a block, or the pixel that kept it from running; adds up."""

    value: Result | None
    invalid: Invalid | None = None

    def __add__(self, other: Outcome[Result]) -> Outcome[Result]:
        invalid = min((x for x in (self.invalid, other.invalid) if x is not None), default=None)
        if invalid is not None:
            return Outcome(None, invalid)
        return Outcome(self.value + other.value)  # type: ignore[operator]


def run_checked(X: Array, start: int, task: Task[Result], check: bool) -> Outcome[Result]:
    """Apply a task to a block whose pixels are all non-negative and finite."""
    invalid = find_invalid(X, start) if check else None
    return Outcome(task(X, start)) if invalid is None else Outcome(None, invalid)


def check_block(X: Array, start: int) -> None:
    """Raise DataError at the first pixel of a block that is negative, NaN or infinite."""
    if (invalid := find_invalid(X, start)) is not None:
        raise invalid_pixel(invalid, _image_number)


def _value(outcome: Outcome[Result], image: Callable[[int], str]) -> Result:
    if outcome.invalid is not None:
        raise invalid_pixel(outcome.invalid, image)
    return cast(Result, outcome.value)


def invalid_pixel(invalid: Invalid, image: Callable[[int], str]) -> DataError:
    """Say which image cannot be factorised, in words that scikit-learn's callers look for."""
    row, pixel, value = invalid
    kind = "Negative values" if value < 0 else "NaN or infinity"
    return DataError(
        f"{kind} in data passed to NMF: the first is {value:g} at pixel {pixel} of "
        f"{image(row)}; pixels must be finite and non-negative: mend or leave out such images"
    )


def _image_number(row: int) -> str:
    return f"image {row}"


def _add(results: Sequence[Result]) -> Result:
    return reduce(lambda a, b: a + b, results)  # type: ignore[operator]


@dataclass
class LocalBlocks:
    """Rows of an array in memory; see `Blocks`."""

    array: Array
    threads: int = CPU_COUNT

    def __post_init__(self) -> None:
        n, p = self.array.shape
        self.shape = (n, p)
        self.dtype = self.array.dtype
        self.ranges = _ranges(n, choose_block_rows(n, p * self.dtype.itemsize))

    def map_sum(self, task: Task[Result], only: Sequence[int] | None = None) -> Result:
        """Apply a task to every block on threads; see `Blocks.map_sum`."""

        def run(block: int) -> Outcome[Result]:
            start, stop = self.ranges[block]
            return run_checked(self.array[start:stop], start, task, only is None)

        with one_blas_thread(), ThreadPoolExecutor(self.threads) as pool:
            wanted = range(len(self.ranges)) if only is None else only
            outcome = add_up(_in_order(pool, run, wanted, self.threads))
        return _value(outcome, _image_number)


def _in_order(
    pool: ThreadPoolExecutor, run: Callable[[int], Result], blocks: Sequence[int], threads: int
) -> Iterator[Result]:
    """Yield results in the order of blocks, with few of them waiting at any time."""
    waiting: deque[Future[Result]] = deque()
    for block in blocks:
        waiting.append(pool.submit(run, block))
        if len(waiting) > 2 * threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclass
class DaskBlocks:
    """Blocks that tasks read or are given; see `Blocks`.

    Attributes
    ----------
    shape, dtype, ranges
        As in `Blocks`.
    load : sequence
        For each block a picklable function that reads it, or a Dask ``Delayed`` of it.
    image : callable
        Names the image of a row, for errors.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    ranges: Sequence[tuple[int, int]]
    load: Sequence[Any]
    image: Callable[[int], str] = _image_number

    def map_sum(self, task: Task[Result], only: Sequence[int] | None = None) -> Result:
        """Apply a task to every block on the active Dask scheduler; see `Blocks.map_sum`."""
        from dask.delayed import delayed

        run, add = delayed(_run_block, pure=False), delayed(_add, pure=False)
        wanted = range(len(self.ranges)) if only is None else only

        def graph(shared: Any) -> Any:
            parts = [run(self.load[i], self.ranges[i][0], shared, only is None) for i in wanted]
            while len(parts) > 1:
                parts = [add(parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
            return parts[0]

        client = active_client()
        outcome: Outcome[Result] = (
            graph(delayed(task, traverse=False)).compute()
            if client is None
            else compute_with(client, task, graph)
        )
        return _value(outcome, self.image)


def _run_block(load: Any, start: int, task: Task[Result], check: bool) -> Outcome[Result]:
    with one_blas_thread():
        X = load() if callable(load) else np.asarray(load)
        return run_checked(X, start, task, check)


def blocks_of(X: Any) -> Blocks:
    """Cut X into blocks.

    Parameters
    ----------
    X : Corpus, zarr.Array, dask.array.Array or ndarray, of shape (n, p)

    Raises
    ------
    DataError
        X is not a matrix of real numbers, or a Dask array chunked along its pixels.
    """
    if isinstance(X, np.ndarray):
        check_matrix(X)
        return LocalBlocks(X)
    if isinstance(X, Corpus):
        return _blocks_of_corpus(X)
    check_matrix(X)
    return _blocks_of_dask(X) if is_dask(X) else _blocks_of_zarr(X)


def fingerprint_of(X: Any, blocks: Blocks) -> int:
    """Tell X from another matrix of its shape, as far as can be without reading all of it.

    Returns
    -------
    int
        Of a corpus the checksum of its manifest, of an array in memory one of all of it, of other
        arrays one of the first block.
    """
    if isinstance(X, Corpus):
        return X.fingerprint
    some = None if isinstance(blocks, LocalBlocks) else [0]
    return crc32c(np.array(blocks.map_sum(_block_crc32c, only=some)))


def _block_crc32c(X: Array, start: int) -> list[int]:
    return [crc32c(X)]


def is_dask(X: Any) -> bool:
    """Tell whether X is Dask's, without importing Dask to find out."""
    return type(X).__module__.split(".")[0] == "dask"


def is_zarr(X: Any) -> bool:
    """Tell whether X is Zarr's."""
    return type(X).__module__.split(".")[0] == "zarr"


def as_dask(X: Any) -> da.Array:
    """Give a corpus, zarr array or Dask array as a Dask array in chunks of whole rows."""
    import dask.array as da

    if isinstance(X, Corpus):
        return X.to_dask()
    check_matrix(X)
    if is_dask(X):
        return _check_dask(X)
    lazy: da.Array = da.from_array(X, chunks=(_zarr_block_rows(X), X.shape[1]))
    return lazy


def check_matrix(X: Any) -> None:
    """Raise DataError unless X has the shape and the dtype of a matrix of pixels."""
    if not (hasattr(X, "shape") and hasattr(X, "dtype")):
        raise DataError(
            f"X is a {type(X).__name__}; NMF needs an array: open a corpus with dnmf.open_corpus, "
            "take an array out of a Zarr group, or call a Dask frame's to_dask_array(lengths=True)"
        )
    if len(X.shape) != 2:
        raise DataError(
            f"Found array with dim {len(X.shape)}, while dim 2 is required by NMF: one row per "
            "image; reshape to (n_images, n_pixels)"
        )
    if X.dtype.kind not in "buif":
        raise DataError(f"X has dtype {X.dtype}; NMF needs integer, boolean or floating pixels")
    if 0 in X.shape:
        raise DataError(f"X has shape {tuple(X.shape)}; NMF needs at least one image and one pixel")


def _check_dask(X: da.Array) -> da.Array:
    from dask_ml.utils import check_array

    try:
        checked: da.Array = check_array(X, dtype=None, ensure_all_finite=False)
    except TypeError as error:
        raise DataError(str(error)) from error
    return checked


def _blocks_of_corpus(corpus: Corpus) -> DaskBlocks:
    indices = range(corpus.n_blocks)
    load = [partial(corpus.read_block, i) for i in indices]
    return DaskBlocks(
        corpus.shape,
        corpus.dtype,
        [corpus.block_range(i) for i in indices],
        load,
        lambda row: f"image {row} ({corpus.id_of(row)})",
    )


def _blocks_of_zarr(X: Any) -> DaskBlocks:
    ranges = _ranges(X.shape[0], _zarr_block_rows(X))
    load = [partial(_read_rows, X, start, stop) for start, stop in ranges]
    return DaskBlocks(tuple(X.shape), np.dtype(X.dtype), ranges, load)


def _blocks_of_dask(X: da.Array) -> DaskBlocks:
    X = _check_dask(X)
    stops = np.cumsum(X.chunks[0]).tolist()
    ranges = list(zip([0, *stops[:-1]], stops, strict=True))
    return DaskBlocks(X.shape, X.dtype, ranges, X.to_delayed(optimize_graph=True).ravel().tolist())


def _read_rows(X: Any, start: int, stop: int) -> Array:
    return np.asarray(X[start:stop])


def _zarr_block_rows(X: Any) -> int:
    """Whole chunks (whole shards, where there are any), about 16 MiB of them."""
    chunk_rows: int = (X.shards or X.chunks)[0]
    wanted = choose_block_rows(X.shape[0], X.shape[1] * X.dtype.itemsize)
    return max(wanted // chunk_rows, 1) * chunk_rows


def _ranges(n: int, rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + rows, n)) for start in range(0, n, rows)]
