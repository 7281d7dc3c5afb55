"""Corpora, weights and models on disk or behind a URL.

May import `numerics`, for the state of a fit; knows no scheduler and no estimator.
Start reading at `store`, through which all bytes pass. `verified_array` checks each block that is
read, and `corpus`, `weights` and `checkpoint` are built on it; `atomic` moves finished results into
place, and says what they may replace. `paths` has the paths that users write.
"""
