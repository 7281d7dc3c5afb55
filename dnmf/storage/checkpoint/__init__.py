"""Models on disk, committed after every pass.

May import the rest of `storage`.
Start reading at `checkpoint`. `commit` writes a pass so that it survives a power failure and
removes old ones, `schema` checks the record of a pass, `weights` holds the weights, and `spec`
defines which fits may resume a checkpoint.
"""
