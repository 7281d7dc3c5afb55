"""Images in, results out.

Imports `model_selection` and all below, not `plot`.
Start reading at `ingest`; a new input format is a `Source` in `sources`.
"""
