#!/usr/bin/env python3
"""Between docs/ and mdBook: links that leave the folder, and the links of the built book.

    ci/book.py supports html    # mdBook asks
    ci/book.py <book.json       # mdBook's preprocessor: the same book with chapters and links as below
    ci/book.py --check FOLDER   # exit 1 with a line for each link of the built book that leads nowhere

The pages stand where GitHub shows them and link to files of the repository. In the book
* a Markdown page outside of docs/ that a page links to is a chapter behind the others, and so are those that it links to;
* any other file or folder is named, since the book does not hold it: [the order](../src/a.rs) becomes the order (`src/a.rs`).

Knows Markdown's inline links as these pages write them. Knows nothing of the network: links with a scheme are left alone.
"""

import json
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# In the book it is the menu, and no page.
SUMMARY = DOCS / "SUMMARY.md"
# Chapters of pages outside of docs/ lie below this folder of the book.
OUTSIDE = "repository"
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
CODE = re.compile(r"^(```|~~~).*?^\1[^\n]*$|(`+)(?!`).*?(?<!`)\2(?!`)", flags=re.MULTILINE | re.DOTALL)


def chapter_path(page):
    """Where a page is in the book, relative to its root."""
    if page.is_relative_to(DOCS):
        return page.relative_to(DOCS).as_posix()
    return f"{OUTSIDE}/{page.relative_to(ROOT).as_posix()}"


def rewrite(text, page, linked):
    """A page's text with its links as in the book; the pages outside of docs/ that it links to come into `linked`."""
    code = [match.span() for match in CODE.finditer(text)]
    here = os.path.dirname(chapter_path(page))

    def link(match):
        picture, shown, target = match.groups()
        parts = urlsplit(target)
        if parts.scheme or not parts.path or any(a <= match.start() < b for a, b in code):
            return match.group(0)
        there = (page.parent / unquote(parts.path)).resolve()
        if not there.is_relative_to(ROOT):
            return match.group(0)
        if there.is_file() and there.suffix == ".md":
            if not there.is_relative_to(DOCS) and there not in linked:
                linked.append(there)
            if there == SUMMARY:
                return f"[{shown}]({os.path.relpath('index.html', here or '.')})"
            anchor = f"#{parts.fragment}" if parts.fragment else ""
            return f"[{shown}]({os.path.relpath(chapter_path(there), here or '.')}{anchor})"
        if there.is_relative_to(DOCS) and there.is_file():
            # The book holds it as it is; a page from outside of docs/ stands elsewhere there.
            anchor = f"#{parts.fragment}" if parts.fragment else ""
            return f"{picture}[{shown}]({os.path.relpath(chapter_path(there), here or '.')}{anchor})"
        name = there.relative_to(ROOT).as_posix()
        plain = shown.replace("`", "")
        return shown if picture or plain.rstrip("/") in (name, there.name) else f"{shown} (`{name}`)"

    return LINK.sub(link, text)


def title(text, page):
    found = re.search(r"^# +(.+)$", text, flags=re.MULTILINE)
    return found.group(1).replace("`", "") if found else page.stem


def preprocess(book):
    linked = []
    items = book["items"] if "items" in book else book["sections"]

    def visit(items):
        for item in items:
            chapter = item.get("Chapter") if isinstance(item, dict) else None
            if chapter and chapter.get("path"):
                chapter["content"] = rewrite(chapter["content"], DOCS / chapter["path"], linked)
                visit(chapter["sub_items"])

    visit(items)
    chapters, done = [], 0
    while done < len(linked):
        page = linked[done]
        text = page.read_text(encoding="utf-8")
        chapters.append((page, title(text, page), rewrite(text, page, linked)))
        done += 1
    if chapters:
        items.append({"PartTitle": "The repository"})
    for page, name, content in sorted(chapters):
        path = chapter_path(page)
        items.append({"Chapter": {
            "name": name, "content": content, "number": None, "sub_items": [], "path": path, "source_path": path,
            "parent_names": [],
        }})
    return book


class Page(HTMLParser):
    """The ids and the links of a page."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links = set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        for key in ("id", "name"):
            if attributes.get(key):
                self.ids.add(attributes[key])
        target = attributes.get("href" if tag in ("a", "link") else "src")
        if target:
            self.links.append(target)


def check(folder):
    pages = {path.resolve(): Page(path) for path in sorted(folder.rglob("*.html"))}
    broken = 0
    for path, page in pages.items():
        # The page for unknown addresses names everything from the server's root.
        if path.name == "404.html":
            continue
        for target in page.links:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            is_there = there.exists() and there.is_relative_to(folder.resolve())
            fragment = unquote(parts.fragment)
            if is_there and (not fragment or there not in pages or fragment in pages[there].ids):
                continue
            broken += 1
            print(f"{path.relative_to(folder.resolve())}: {target} leads nowhere")
    print(f"book.py: {len(pages)} pages, {broken} broken links", file=sys.stderr)
    return 1 if broken or not pages else 0


def main():
    if sys.argv[1:2] == ["supports"]:
        return 0 if sys.argv[2:] == ["html"] else 1
    if sys.argv[1:2] == ["--check"]:
        return check(Path(sys.argv[2]))
    _, book = json.load(sys.stdin)
    json.dump(preprocess(book), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
