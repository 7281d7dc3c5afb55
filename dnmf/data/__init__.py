"""Images that come with dnmf, for a first try, examples and tests.

Start at `mnist`, which reads them. It may import NumPy alone, of the rest of dnmf nothing. What
the images are, and whose, is in the `README.md` of this folder.
Public names are exported here.
"""

from dnmf.data.mnist import digits

__all__ = ["digits"]
