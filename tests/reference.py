"""The dense oracle: textbook answers in float64, with no thought for speed or memory."""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls


def weights(X: np.ndarray, H: np.ndarray) -> np.ndarray:
    """Solve every image's least-squares problem exactly."""
    X, H = np.asarray(X, float), np.asarray(H, float)
    return np.array([nnls(H.T, x)[0] for x in X])


def loss(X: np.ndarray, W: np.ndarray, H: np.ndarray) -> float:
    """Half the squared Frobenius norm of the residual."""
    return 0.5 * float(np.sum((np.asarray(X, float) - np.asarray(W, float) @ H) ** 2))
