"""From a start to a reason to stop: the only loop over passes, and what must be known beforehand.

Imports `engine`, `storage` and `numerics`; knows no estimator.
Start reading at `loop`; `warm_start` makes what it starts from, `multi_fit` runs many models in the
same reads, `memory_model` and `plan` say beforehand what a fit takes.
"""
