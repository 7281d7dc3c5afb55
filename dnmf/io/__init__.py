"""Input and output: image files to corpora, results to files, checks of what is on disk.

Imports `model_selection` and all below, not `plot`.
Start reading at `ingest`; a new input format is a class like `Source` in `sources.source`. `export`
writes weights and reconstructions, `verify` looks for damage.
"""
