"""Reference solutions in float64 on dense arrays, and helpers that several test modules share."""

from __future__ import annotations

import pickle
import threading
from typing import Any

import numpy as np
from scipy.optimize import nnls


def weights(X: np.ndarray, H: np.ndarray) -> np.ndarray:
    """Solve the least-squares problem of each image exactly."""
    X, H = np.asarray(X, float), np.asarray(H, float)
    return np.array([nnls(H.T, x)[0] for x in X])


def loss(X: np.ndarray, W: np.ndarray, H: np.ndarray) -> float:
    """Compute half the squared Frobenius norm of the residual."""
    return 0.5 * float(np.sum((np.asarray(X, float) - np.asarray(W, float) @ H) ** 2))


def multiplicative_weights(X: np.ndarray, H: np.ndarray, beta: float, steps: int) -> np.ndarray:
    """Compute W by multiplicative steps, as scikit-learn's mu solver does."""
    exponent = 1 / (2 - beta) if beta < 1 else 1 / (beta - 1) if beta > 2 else 1.0
    W = np.full((len(X), len(H)), np.sqrt(X.mean() / len(H)))
    for _ in range(steps):
        Y = np.maximum(W @ H, 1e-12)
        W = W * ((X * Y ** (beta - 2)) @ H.T / (Y ** (beta - 1) @ H.T)) ** exponent
    return W


def objective_value(X, W, H, beta, alpha, l1_ratio) -> float:
    """Compute scikit-learn's objective with the same alpha for W and H."""
    from sklearn.decomposition._nmf import _beta_divergence

    n, p = X.shape
    W, H = np.asarray(W, float), np.asarray(H, float)

    def penalty(A, scale):
        return scale * alpha * (l1_ratio * A.sum() + (1 - l1_ratio) / 2 * (A**2).sum())

    return _beta_divergence(np.asarray(X, float), W, H, beta) + penalty(W, p) + penalty(H, n)


def fit_of(X, d, **options):
    """Fit a model, and ignore warnings such as that at max_iter."""
    import warnings

    import dnmf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dnmf.NMF(d, random_state=0, **options).fit(X)


def unpickled(value: Any) -> Any:
    """Pickle and unpickle a value; its buffers are read-only and unaligned, as in a message."""
    buffers: list[pickle.PickleBuffer] = []
    message = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    return pickle.loads(message, buffers=[memoryview(b"x" + bytes(b.raw()))[1:] for b in buffers])


class Dataset:
    """What an HDF5 dataset is to its users; refuses to be loaded whole or by two threads."""

    def __init__(self, data, chunk_rows=10):
        self._data, self.shape, self.dtype = data, data.shape, data.dtype
        if chunk_rows is not None:
            self.chunks = (chunk_rows, *data.shape[1:])
        self._busy = threading.Lock()
        self.reads, self.most_rows = 0, 0

    def __getstate__(self):
        return {**vars(self), "_busy": None}

    def __len__(self):
        return len(self._data)

    def __getitem__(self, rows):
        assert isinstance(rows, slice), "slices of rows are all that it takes"
        assert self._busy is None or self._busy.acquire(blocking=False), "two threads at once"
        try:
            part = self._data[rows]
            self.reads, self.most_rows = self.reads + 1, max(self.most_rows, len(part))
            return part
        finally:
            if self._busy is not None:
                self._busy.release()

    def __array__(self, dtype=None, copy=None):
        raise AssertionError("the whole array was asked for")


class CountingReads:
    """Matrix that counts how often each row is read."""

    def __init__(self, X: np.ndarray) -> None:
        self.X, self.reads, self.lock = X, np.zeros(len(X), int), threading.Lock()

    def read(self, start: int, stop: int) -> np.ndarray:
        with self.lock:
            self.reads[start:stop] += 1
        return self.X[start:stop]


def counted(X: np.ndarray, rows: int) -> tuple[CountingReads, Any]:
    """Return a `CountingReads` of X and the blocks that read from it."""
    from dnmf.engine.dask_graph import DaskBlocks
    from dnmf.engine.tree_reduce import even_ranges

    counting, ranges = CountingReads(X), even_ranges(len(X), rows)
    return counting, DaskBlocks(X.shape, X.dtype, ranges, lambda i: counting.read(*ranges[i]))
