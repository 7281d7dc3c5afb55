"""A model on disk, committed after every pass.

Imports the rest of `storage`.
Start reading at `checkpoint`; `commit` writes a pass so that it outlasts a power failure, `schema`
says what its record may hold, `prune` which passes are kept, `spec` what makes two fits the same.
"""
