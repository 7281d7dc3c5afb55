"""`NMF` and `MiniBatchNMF`: scikit-learn's face.

Imports `solvers` and all below.
Start reading at `nmf`; `base` holds what a fitted model does, `parameters` what values are allowed,
`inputs` what X may be.
"""
