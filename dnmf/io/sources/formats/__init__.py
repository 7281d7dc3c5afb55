"""Formats of image files: one module each, which opens a file as an array with named axes."""
