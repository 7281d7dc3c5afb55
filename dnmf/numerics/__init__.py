"""One block's maths: weights from components, sums over images, components from sums.

It may import NumPy, SciPy, numba and dnmf's base modules: no Dask, no Zarr, no scikit-learn.
Start at `objective`, which defines what is minimised and the steps that lower it. `block` holds
their input and `statistics` their sums; `nnls` and `beta` hold the compiled kernels.
"""
