"""How a pass over blocks runs: on threads of this process, or as a Dask graph.

    X_b H^T -> W_b -> W_b^T W_b, W_b^T X_b -> tree sum -> H

Imports `numerics` and Dask; knows no file and no estimator. Start reading at `blocks`, the face of
both engines; `local` and `dask_graph` are the engines, `tree_reduce` the sum that they share.
"""
