"""Check a built site: its links, what it loads, and what people need who cannot see it.

    python .ci/check_site.py FOLDER

Prints a line for each fault, and fails if there is any.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"href": {"link"}, "src": {"audio", "iframe", "img", "script", "source", "video"}}
"""Attributes whose targets a browser loads by itself, and on which tags."""


class Page(HTMLParser):
    """Names, links and faults of one page."""

    def __init__(self, path):
        super().__init__()
        self.names, self.links, self.faults, self.level = set(), [], [], 0
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        """Look at a tag."""
        found = dict(attributes)
        self.names |= {found[key] for key in ("id", "name") if found.get(key)}
        for key, tags in LOADED.items():
            if found.get(key):
                self.links.append((found[key], tag in tags))
        shown = f"{found.get('class')} {found.get('src')}"
        is_beside_its_name = "logo" in shown or "_thumb." in shown
        if tag == "img" and not found.get("alt") and not is_beside_its_name:
            self.faults.append(f"an image without alt text: {found.get('src')}")
        if re.fullmatch("h[1-6]", tag):
            level = int(tag[1])
            if level > self.level + 1:
                self.faults.append(f"a heading of level {level} below one of level {self.level}")
            self.level = level


def find_faults(folder):
    """Yield a line for each fault of the pages and style sheets in a folder."""
    found = [path for path in folder.rglob("*.html") if path.parent.name != "_static"]
    pages = {path: Page(path) for path in sorted(found)}
    for path, page in pages.items():
        name = path.relative_to(folder)
        yield from (f"{name}: {fault}" for fault in page.faults)
        for link, is_loaded in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if is_loaded and parts.scheme != "data":
                    yield f"{name}: loads {link} from the network"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                yield f"{name}: {link} leads to no file"
            elif target in pages and unquote(parts.fragment) not in {"", *pages[target].names}:
                yield f"{name}: {link} leads to no heading"
    for path in sorted(folder.rglob("*.css")):
        for url in re.findall(r"""(?:url\(|@import)\s*["']?(https?:|//)""", path.read_text()):
            yield f"{path.relative_to(folder)}: loads from the network ({url})"


def main():
    """Print the faults of the site that is named on the command line."""
    folder = Path(sys.argv[1]).resolve()
    assert (folder / "index.html").exists(), f"{folder} holds no site"
    faults = list(find_faults(folder))
    print("\n".join([*faults, f"faults: {len(faults)}"]))
    sys.exit(bool(faults))


main()
