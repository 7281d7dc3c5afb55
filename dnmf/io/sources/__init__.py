"""Sources of images, which `dnmf.ingest` reads.

Imports `errors` and Pillow.
Start reading at `source`: a new input format is a class like its `Source`. `image_files` decodes
PNG and the like, `array_files` maps IDX and ``.npy`` files.
"""
