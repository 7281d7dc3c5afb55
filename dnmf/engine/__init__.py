"""How a pass over blocks runs: on threads of this process, or as a Dask graph.

One pass of alternating updates as blockwise matrix products, with the module of each step:

    X_b                     read a block of rows                    `dask_graph` (a task for each
     |                                                              group of blocks) or `local`
     |  X_b H^T, H H^T      products with the components            `numerics.objective`
     v
    W_b                     non-negative least squares              `numerics.nnls`
     |
     |  W_b^T W_b           products with the weights               `numerics.objective`
     |  W_b^T X_b
     v
    sums over all blocks    eight at a time, in a fixed tree        `tree_reduce`
     |
     v
    H                       least squares, where the tree ends      `solvers.loop`

Imports `numerics` and Dask; knows no file and no estimator. Start reading at `blocks`, the protocol
of both engines. `chunks` makes and checks the chunks of Dask arrays, `threads` says how many
threads there may be, `executors` holds functions on threads and the active client, `retry` what
happens when workers die, `client` the cluster that flags ask for.
"""
