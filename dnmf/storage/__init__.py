"""Bytes that last: corpora, weights and models on disk or behind a URL.

Imports `numerics` for the state of a fit; no scheduler, no estimator.
Start reading at `store`, the one way to bytes; `corpus` and `checkpoint` are built on
`verified_array`, which checks each block, and `atomic`, which moves results into place.
"""
