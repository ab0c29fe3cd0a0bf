"""The documents: links, anchors and named files are there, the README stays short, and README and book lead to every page."""

import contextlib
import importlib.util
import io
import os
import re
import tempfile
import unittest
from pathlib import Path
from urllib.parse import unquote

ROOT = Path(__file__).resolve().parents[2]
LONGEST_README = 130


def pages():
    """Every Markdown file of the repository, built and fetched folders left out."""
    found = list(ROOT.glob("*.md"))
    for folder in ("benches", "docs", "examples", "jobs", "models", "tests"):
        found += (ROOT / folder).rglob("*.md")
    return sorted(found)


def without_code(text):
    """The text without fenced blocks and inline code, in which nothing is a link."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def targets(text):
    """The targets of all links and images: inline, by reference, and of HTML."""
    text = without_code(text)
    inline = re.findall(r"\]\(\s*<?([^()<>\s]+)>?(?:\s+[\"'][^)]*)?\)", text)
    return inline + re.findall(r"^ {0,3}\[[^\]]+\]:\s+<?([^<>\s]+)", text, flags=re.MULTILINE) + re.findall(
        r"<(?:a|img)\s[^>]*?(?:href|src)=[\"']([^\"']+)", text)


def anchors(text):
    """What a `#...` may name: the headings as GitHub makes anchors of them."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    seen = {}
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        seen[slug] = seen.get(slug, -1) + 1
        yield slug if seen[slug] == 0 else f"{slug}-{seen[slug]}"


def broken_links(page):
    """Targets of a page that lead nowhere."""
    text = page.read_text(encoding="utf-8")
    for target in targets(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", target, flags=re.IGNORECASE):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / unquote(path)).resolve() if path else page
        if not there.is_relative_to(ROOT) or not there.exists():
            yield target
        elif anchor and there.suffix == ".md" and unquote(anchor) not in anchors(there.read_text(encoding="utf-8")):
            yield target
        elif anchor and there.suffix != ".md":
            # A line of a file, or nothing that this can tell.
            yield from () if re.fullmatch(r"L\d+(-L\d+)?", anchor) else [target]


def book():
    """ci/book.py."""
    spec = importlib.util.spec_from_file_location("book", ROOT / "ci/book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Documents(unittest.TestCase):
    def test_relative_links_lead_somewhere(self):
        for page in pages():
            with self.subTest(page=page.relative_to(ROOT).as_posix()):
                self.assertEqual(list(broken_links(page)), [])

    def test_the_readme_is_short(self):
        lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
        self.assertLessEqual(len(lines), LONGEST_README)

    def test_the_readme_leads_to_every_page(self):
        linked = {target.partition("#")[0] for target in targets((ROOT / "README.md").read_text(encoding="utf-8"))}
        pages = {page.relative_to(ROOT).as_posix() for page in (ROOT / "docs").glob("*.md")}
        self.assertEqual(pages - linked, set())

    def test_the_book_has_every_page(self):
        listed = set(targets((ROOT / "docs/SUMMARY.md").read_text(encoding="utf-8")))
        pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
        self.assertEqual(pages - {"SUMMARY.md"}, listed)

    def test_files_that_the_documents_name_exist(self):
        for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "UPGRADING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
            named = re.findall(r"`((?:src|sql|schemas|jobs|tests|ci|benches|docs|examples|models)/[\w./-]+)`", page.read_text(encoding="utf-8"))
            with self.subTest(page=page.relative_to(ROOT).as_posix()):
                self.assertEqual([name for name in named if not (ROOT / name).exists()], [])

    def test_what_is_no_link_is_left_alone(self):
        text = "[a](b.md#c) `[d](e.md)` ![f](g.svg)\n```\n[h](i.md)\n```\n[j](https://k)"
        self.assertEqual(targets(text), ["b.md#c", "g.svg", "https://k"])

    def test_links_of_every_kind_are_seen(self):
        text = "[a](b.md \"title\") [c](<d.md>) [e][f]\n\n[f]: g.md\n\n<img alt='' src=\"h.svg\"><a id='x' href='i.md#j'>k</a>"
        self.assertEqual(targets(text), ["b.md", "d.md", "g.md", "h.svg", "i.md#j"])

    def test_in_the_book_links_lead_to_chapters_and_files_are_named(self):
        page, linked = ROOT / "docs/reference/tables.md", []
        text = (
            "[a](../features.md#words) [`sql/item.x`](../../build.rs) [the order](../../src/lib.rs) [`build.rs`](../../build.rs) "
            "[b](../../README.md#one-query) `[c](../../README.md)` [d](https://e/f.md) [g](#h)"
        )
        wanted = (
            "[a](../features.md#words) `sql/item.x` (`build.rs`) the order (`src/lib.rs`) `build.rs` "
            "[b](../repository/README.md#one-query) `[c](../../README.md)` [d](https://e/f.md) [g](#h)"
        )
        self.assertEqual(book().rewrite(text, page, linked), wanted)
        self.assertEqual(linked, [ROOT / "README.md"])

    def test_pictures_are_shown_in_the_book_whichever_page_shows_them(self):
        for page, target in [
            ("README.md", "docs/images/flow.svg"), ("docs/concepts.md", "images/flow.svg"), ("docs/reference/tables.md", "../images/flow.svg"),
        ]:
            shown = book().rewrite(f"![a night]({target}) ![b](https://c/d.svg)", ROOT / page, [])
            there = (Path(book().chapter_path(ROOT / page)).parent / re.search(r"\]\(([^)]+)\)", shown)[1]).as_posix()
            self.assertEqual(os.path.normpath(there), "images/flow.svg", page)
            self.assertTrue(shown.startswith("![a night](") and shown.endswith(" ![b](https://c/d.svg)"), shown)

    def test_the_book_gets_pages_that_its_pages_lead_to(self):
        chapter = {"name": "A", "content": "[a](../UPGRADING.md)", "path": "concepts.md", "sub_items": []}
        items = book().preprocess({"items": [{"Chapter": chapter}]})["items"]
        self.assertEqual(chapter["content"], "[a](repository/UPGRADING.md)")
        # UPGRADING.md leads to CHANGELOG.md, which leads on.
        added = [item["Chapter"]["path"] for item in items[2:]]
        self.assertIn("repository/CHANGELOG.md", added)
        self.assertIn("repository/UPGRADING.md", added)

    def test_links_of_the_book_that_lead_nowhere_are_found(self):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "a.html").write_text("<h1 id='x'></h1><a href='b.html'>b</a><a href='#y'>y</a><a href='#x'>x</a>")
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()):
                code = book().check(Path(folder))
        self.assertEqual(code, 1)
        self.assertEqual(said.getvalue().splitlines(), ["a.html: b.html leads nowhere", "a.html: #y leads nowhere"])

    def test_headings_become_anchors(self):
        text = "# What `curec` does: it runs\n## A, b\n## A, b\n```\n# not this\n```\n### [Link](x.md) _u_"
        self.assertEqual(list(anchors(text)), ["what-curec-does-it-runs", "a-b", "a-b-1", "link-_u_"])


if __name__ == "__main__":
    unittest.main()
