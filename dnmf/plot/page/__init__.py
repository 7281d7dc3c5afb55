"""A report on a model: one HTML page that holds all it shows, for a browser without a network.

`report` puts it together and writes it. `facts` says in words and tables what the model and its
record hold, `sample` looks at images of a corpus, `pictures` and `charts` draw, and `report.html`
and `style.css` say how it looks. It imports what its wing does.
"""
