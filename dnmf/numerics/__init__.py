"""One block's maths: weights from components, sums over images, components from sums.

Imports NumPy, SciPy and numba, and of dnmf only `errors`: no Dask, no Zarr, no scikit-learn.
Start reading at `objective`, which says what is minimised; `block` is what it is given,
`statistics` what a pass sends out and brings home, `nnls` and `beta` the compiled loops.
"""
