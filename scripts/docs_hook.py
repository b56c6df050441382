"""Pages of the documentation that lie outside of docs/, and the files there that pages link to.

The README is the home page. Links are written for readers of the repository (`docs/x.md`, `../weights/README.md`); here
they are turned to where the same file lies in the site. A link to a file that does not exist ends the build.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "weights/README.md": "weights/README.md",
}
LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and what any page links to outside of docs/."""
    texts = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    for source, target in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        texts[source] = text
        files.append(File.generated(config, target, content=text))
    known = {file.src_uri for file in files}
    for source, text in texts.items():
        for link in LINK.finditer(text):
            path = _in_repository(source, link[2])
            if path is None or path.startswith("docs/") or path in PAGES or path in known:
                continue
            if (ROOT / path).is_file():
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
                known.add(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links for readers of the repository to links within the site."""
    here = page.file.src_uri
    source = next((source for source, target in PAGES.items() if target == here), f"docs/{here}")

    def turned(link: re.Match[str]) -> str:
        path = _in_repository(source, link[2])
        if path is None:
            return link[0]
        target = PAGES.get(path, path.removeprefix("docs/"))
        relative = posixpath.relpath(target, posixpath.dirname(here) or ".")
        return f"{link[1]}{relative}{link[3] or ''}{link[4]}"

    return LINK.sub(turned, markdown)


def _in_repository(source: str, link: str) -> str | None:
    """Where a link of a file leads to in the repository; None where it leads elsewhere."""
    if re.match(r"[a-z][a-z+.-]*:", link) or link.startswith("/"):
        return None
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    return None if path.startswith("..") else path
