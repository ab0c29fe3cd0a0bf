"""The pictures of the README: made by ci/charts.py from benches/worth.tsv, whose figures are those of benches/ABLATION.md, and readable
on a phone, by day and by night."""

import importlib.util
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ["flow.svg", "worth.svg"]
SVG = "{http://www.w3.org/2000/svg}"
# Units across; a phone has some 340 to 400 pixels for a page's content.
WIDEST, SMALLEST_FONT = 400, 13
# How wide a letter is in a wide font, of its size.
LETTER, HEAVY = 0.52, 0.61


def charts():
    """ci/charts.py."""
    spec = importlib.util.spec_from_file_location("charts", ROOT / "ci/charts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section(text, name):
    """The part of ABLATION.md whose heading begins with a name: to the next heading of that level."""
    found = re.search(rf"^(#+) [^\n]*{re.escape(name)}.*?(?=^#{{1,3}} |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def tables(text):
    """Tables as lists of rows, each a list of cells without their marks."""
    rows = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip().replace("*", "") for cell in line.strip("|").split("|")])
        elif rows:
            yield rows
            rows = []


def whole(figure, cell):
    """Whether a cell holds a figure, and not one that only begins or ends like it."""
    return re.search(rf"(?<![\d.+-]){re.escape(figure)}(?![\d.]|,\d)", cell) is not None


def problems(row, text):
    """What of a row of the file does not stand in ABLATION.md."""
    signal = {"Simulated, texts tell what is new": "content", "Simulated, texts tell nothing": "none"}.get(row["set"])
    if signal:
        part = section(text, "The control: simulated logs")
        line = next((dict(zip(t[0], r)) for t in tables(part) for r in t if r[0] == signal), {})
        wanted = {"cases": row["cases"], row["arm"]: row["recall"], row["against"]: row["recall_against"],
                  f"{row['arm']} - {row['against']}": charts().told(row)}
        return [f"{name}: {figure}" for name, figure in wanted.items() if line.get(name) != figure]
    one = row["set"].endswith(", one origin")
    _, _, origins = row["set"].partition(", ")
    part = section(text, f"With reasons, at {origins}" if origins.endswith(("origin", "origins")) else row["set"])
    wrong = [] if whole(f"{row['cases']} cases", part.split("\n")[0]) else ["cases"]
    found = [(t[0], line) for t in tables(part) for line in t[1:]]
    for arm, recall in [(row["arm"], row["recall"]), (row["against"], row["recall_against"])]:
        cells = [dict(zip(head, line)) for head, line in found if re.match(rf"{arm}\b(?! -)", line[0])]
        # Under "all" where columns are groups of items, under the metric where they are metrics.
        if not any(whole(recall, line.get("all", line.get("Recall@10", ""))) for line in cells):
            wrong.append(f"{arm}: {recall}")
    contrast = f"{row['arm']} - {row['against']}"
    lines = [dict(zip(head, line)) for head, line in found if re.match(rf"{contrast}\b", line[0])]
    column = "Recall@10" if one else "relative"
    if not any(whole(charts().told(row), line.get(column, "")) for line in lines):
        wrong.append(f"{contrast}: {charts().told(row)}")
    if row["holm"] != "-" and not any(line.get("Holm p") == row["holm"] for line in lines):
        wrong.append(f"{contrast}: Holm p {row['holm']}")
    if row["holm"] == "-" and any("Holm p" in line for line in lines):
        wrong.append(f"{contrast}: Holm's p is left out")
    return wrong


class Figures(unittest.TestCase):
    def setUp(self):
        self.rows = charts().figures()
        self.ablation = (ROOT / "benches/ABLATION.md").read_text(encoding="utf-8")

    def test_every_figure_stands_in_the_ablation(self):
        self.assertGreater(len(self.rows), 10)
        for row in self.rows:
            with self.subTest(set=row["set"], contrast=f"{row['arm']} - {row['against']}"):
                self.assertEqual(problems(row, self.ablation), [])

    def test_a_figure_that_is_another_is_found(self):
        for row in self.rows:
            for name in ("cases", "recall", "recall_against", "relative", "low", "high", "holm"):
                other = {**row, name: "0.5" if name == "holm" else row[name][:-1] + ("1" if row[name][-1] != "1" else "2")}
                if name == "holm" and row["set"].startswith("Simulated"):
                    continue
                with self.subTest(set=row["set"], arm=row["arm"], against=row["against"], name=name):
                    self.assertNotEqual(problems(other, self.ablation), [])

    def test_controls_and_what_does_not_help_are_among_them(self):
        pairs = {(row["arm"], row["against"]) for row in self.rows}
        self.assertLessEqual({("A2r", "A0"), ("A2r", "A1b"), ("A2r", "A1"), ("A1b", "A0"), ("A4", "A2r")}, pairs)
        shown = [charts().is_shown(row) for row in self.rows]
        self.assertTrue(any(shown) and not all(shown))

    def test_a_difference_is_shown_by_interval_and_holm(self):
        row = {"low": "+0.5", "high": "+14.4", "holm": "0.17"}
        self.assertFalse(charts().is_shown(row))
        self.assertTrue(charts().is_shown({**row, "holm": "0.029"}))
        self.assertTrue(charts().is_shown({"low": "-9.0", "high": "-0.1", "holm": "-"}))
        self.assertFalse(charts().is_shown({"low": "-0.1", "high": "+9.0", "holm": "0.001"}))

    def test_the_readme_has_no_interval_that_was_not_measured(self):
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        flat = self.ablation.replace("\n", " ")
        found = re.findall(r"[+-][\d.]+ % \[[^\]]+\]", readme.replace("\n", " "))
        self.assertEqual([figure for figure in found if figure not in flat], [])
        told = {row["relative"] for row in self.rows}
        for alone in re.findall(r"[+-]\d[\d.]* %", readme):
            self.assertIn(alone.removesuffix(" %"), told)


class Pictures(unittest.TestCase):
    def test_they_are_what_the_script_makes(self):
        run = subprocess.run([sys.executable, ROOT / "ci/charts.py", "--check"], capture_output=True, text=True)
        self.assertEqual((run.returncode, run.stdout), (0, ""), run.stderr)
        self.assertEqual(sorted(p.name for p in (ROOT / "docs/images").iterdir()), PICTURES)

    def test_a_picture_of_other_figures_is_stale(self):
        module = charts()
        with tempfile.TemporaryDirectory() as folder:
            module.FIGURES = Path(folder) / "worth.tsv"
            text = (ROOT / "benches/worth.tsv").read_text(encoding="utf-8")
            module.FIGURES.write_text(text.replace("+50.7", "+51.7"), encoding="utf-8")
            self.assertNotEqual(module.worth(), (ROOT / "docs/images/worth.svg").read_text(encoding="utf-8"))

    def test_every_row_is_drawn_at_its_place(self):
        module = charts()
        root = ElementTree.parse(ROOT / "docs/images/worth.svg").getroot()
        said = [text.text for text in root.iter(f"{SVG}text")]
        rows = module.figures()
        for row in rows:
            self.assertIn(module.told(row), said)
            self.assertIn(row["told"], said)
        marks = [(float(c.get("cx")), c.get("class")) for c in root.iter(f"{SVG}circle")]
        within = [row for row in rows if float(row["relative"]) <= module.HIGHEST]
        self.assertEqual(len(marks), len(within))
        zero, ten = module.place(0), module.place(10)
        for (x, kind), row in zip(marks, within):
            self.assertAlmostEqual((x - zero) / (ten - zero) * 10, float(row["relative"]), delta=0.05, msg=str(row))
            self.assertEqual(kind, "shown" if module.is_shown(row) else "open")

    def test_the_flow_names_tables_that_there_are(self):
        module = charts()
        names = [name for tables, _, _ in module.FLOW for line in tables for name in line.split(", ")]
        self.assertGreater(len(names), 10)
        self.assertEqual([name for name in names if not list((ROOT / "schemas").rglob(f"{name}.toml"))], [])

    def test_they_are_pictures_and_nothing_else(self):
        for name in PICTURES:
            source = (ROOT / "docs/images" / name).read_text(encoding="utf-8")
            root = ElementTree.fromstring(source)
            with self.subTest(name):
                tags = {element.tag.removeprefix(SVG) for element in root.iter()}
                self.assertLessEqual(tags, {"svg", "title", "desc", "style", "rect", "path", "circle", "text"})
                attributes = {key for element in root.iter() for key in element.keys()}
                self.assertEqual([key for key in attributes if key.startswith("on") or "href" in key], [])
                self.assertNotRegex(source, r"url\(|@import|<!DOCTYPE")
                self.assertTrue(root.find(f"{SVG}title").text and root.find(f"{SVG}desc").text)

    def test_they_are_readable_on_a_phone(self):
        for name in PICTURES:
            root = ElementTree.parse(ROOT / "docs/images" / name).getroot()
            style = root.find(f"{SVG}style").text
            with self.subTest(name):
                self.assertLessEqual(float(root.get("width")), WIDEST)
                self.assertEqual(root.get("viewBox"), f"0 0 {root.get('width')} {root.get('height')}")
                sizes = [float(size) for size in re.findall(r"font(?:-size)?:\s*([\d.]+)px", style)]
                self.assertTrue(sizes and min(sizes) >= SMALLEST_FONT, sizes)
                ends = {}
                for text in root.iter(f"{SVG}text"):
                    kind = (text.get("class") or "").split()
                    wide = len(text.text) * sizes[0] * (HEAVY if {"table", "heading"} & set(kind) else LETTER)
                    x = float(text.get("x")) - (wide if "figure" in kind else wide / 2 if "middle" in kind else 0)
                    self.assertTrue(0 <= x and x + wide <= WIDEST, text.text)
                    for begin, end, other in ends.get(text.get("y"), []):
                        self.assertTrue(x >= end or x + wide <= begin, f"{text.text} over {other}")
                    ends.setdefault(text.get("y"), []).append((x, x + wide, text.text))

    def test_colours_stand_out_by_day_and_by_night(self):
        style = charts().STYLE
        day, _, night = style.partition("@media (prefers-color-scheme: dark)")
        for scheme in (day, night):
            fill = {kind: found for kind, found in re.findall(r"\.?([\w-]+) \{[^}]*?fill: (#\w{6})", scheme)}
            for words in ("text", "quiet"):
                for ground in ("ground", "box"):
                    self.assertGreaterEqual(contrast(fill[words], fill[ground]), 4.5, (words, ground))
            self.assertGreaterEqual(contrast(fill["shown"], fill["ground"]), 3)


def contrast(one, other):
    """How far two colours are apart, as WCAG has it."""
    def light(colour):
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(w * (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4) for w, v in zip((0.2126, 0.7152, 0.0722), parts))
    bright, dark = sorted((light(one), light(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


if __name__ == "__main__":
    unittest.main()
