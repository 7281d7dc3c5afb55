"""Formats of image files: one module each, which opens a file as an array with named axes.

A module of a format has a constant ``FORMAT``, an object as `file.Format` describes; `registry`
lists the modules. Other packages add theirs under the entry point group ``dnmf.sources``, whose
entries are such objects.
"""
