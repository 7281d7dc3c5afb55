"""The command line: one module per command, each calling the library once.

Imports everything; nothing imports it.
Start reading at `main`; options that commands share are in `options`, progress in `progress`.
"""
