"""The loop over passes, the first H, and predictions of the memory and time of a fit.

Imports `engine`, `storage` and `numerics`; knows no estimator.
Start reading at `loop`; `warm_start` computes the first H, `multi_fit` fits several models in the
same reads, `memory_model` and `plan` predict what a fit takes.
"""
