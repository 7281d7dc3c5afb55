"""Sources of images, which `dnmf.ingest` reads.

Imports `errors` and Pillow.
Start reading at `source`: a new input format is a class like its `Source`. `image_files` reads
PNG and the like with `formats`; `arrays` takes arrays, and `array_files` those in files.
"""
