"""Sources of images: where they lie, how files are opened, and what is done to their pixels.

Start reading at `source`, which lists the files behind paths. `places` says where files lie,
`formats` opens them as arrays with named axes, `image_array` finds the images in these, and
`prepare` converts them. `files` puts this together; `arrays` takes arrays that are not in files.
"""
