#!/usr/bin/env python3
"""The pictures of the README: docs/images/.

    ci/charts.py            # writes them
    ci/charts.py --check    # exit 1 where a picture is not what it would write

flow.svg   what becomes of a night's log, drawn as FLOW says
worth.svg  what the features are worth, by benches/worth.tsv

They are written to be read as text too. Colours follow the reader's scheme, light or dark, on a ground of their own, so they
stand out on any page; and 400 units are no wider than a phone. Knows nothing of how the figures were measured.
"""

import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs/images"
FIGURES = ROOT / "benches/worth.tsv"

WIDTH, MARGIN = 400, 14
STYLE = """<style>
  text { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
  .ground { fill: #ffffff }  .box { fill: #f3f5f8; stroke: #8a939d }  .yours { fill: #ffffff; stroke-dasharray: 5 3 }
  .table { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-weight: 600 }  .heading { font-weight: 600 }
  .quiet { fill: #57606a }  .figure { text-anchor: end }  .middle { text-anchor: middle }
  .line { stroke: #57606a; fill: none; stroke-width: 1.5 }  .head { fill: #57606a }  .grid { stroke: #d5dae0 }
  .zero { stroke: #57606a }  .shown { stroke: #0958c5; fill: #0958c5; stroke-width: 2.5 }
  .open { stroke: #57606a; fill: #ffffff; stroke-width: 2 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }  .ground { fill: #0d1117 }  .box { fill: #1b222b; stroke: #6e7681 }  .yours { fill: #0d1117 }
    .quiet { fill: #a3acb6 }  .line { stroke: #a3acb6 }  .head { fill: #a3acb6 }  .grid { stroke: #2c333b }
    .zero { stroke: #a3acb6 }  .shown { stroke: #6cb0ff; fill: #6cb0ff }  .open { stroke: #a3acb6; fill: #0d1117 }
  }
</style>"""

# The boxes from the log to the ranker: what is in each, its words, and what makes the next one of it. Names in the lists are tables.
FLOW = [
    (["interaction, item, review, pair"], "your logs and catalogue, under contract", "SQL, only events before the moment"),
    (["user_history, item_audience", "item_content, item_voice, user_voice"], "the evidence: who did what, what is said of items", "SQL"),
    (["reason_prompt"], "a question for each item, history and pair", "language model, once for each different prompt"),
    (["response, reason"], "what it answered, and the sentence that counts", "checks"),
    (["reason_score"], "grounded? repetitive? accepted, or why not", "sentence encoder"),
    (["item_feature, user_feature, pair_feature"], "vectors of the evidence and accepted reasons", ""),
    ([], "your ranker, which joins them by id and moment", None),
]
# Boxes that the reader brings; the one that leads past the model, and the one that it leads to.
YOURS, PAST = {0, 6}, (1, 5)
FLOW_SAYS = (
    "From your logs SQL makes evidence, and prompts of it. A language model answers them, checks accept or refuse its reasons, and a "
    "sentence encoder makes features for your ranker, of the evidence and the accepted reasons. Every week the model learns, "
    "and a gate decides whether it is used."
)

# The axis of the other picture, in percent.
LOWEST, HIGHEST, TICKS = -30, 64, (-20, 0, 20, 40, 60)
WORTH_SAYS = "What features are worth to a ranker: the relative difference of Recall@10 with its 95 % interval."


def text(x, y, said, kind=""):
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{number(x)}" y="{number(y)}"{kind}>{escape(said, quote=False)}</text>'


def number(value):
    return f"{value:.1f}".removesuffix(".0")


def picture(height, title, says, parts):
    """An SVG file with what people hear who do not see it."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{escape(title, quote=False)}</title>",
        f"<desc>{escape(says, quote=False)}</desc>",
        "<!-- made by ci/charts.py -->",
        STYLE,
        f'<rect class="ground" width="{WIDTH}" height="{height}" rx="6"/>',
        *parts,
        "</svg>\n",
    ])


def down(x, start, end):
    """An arrow."""
    return [
        f'<path class="line" d="M{number(x)} {number(start)} V{number(end - 6)}"/>',
        f'<path class="head" d="M{number(x - 5)} {number(end - 8)} h10 l-5 8 z"/>',
    ]


def flow():
    wide, rail = WIDTH - 2 * MARGIN - 22, WIDTH - MARGIN
    middle, y, parts, places = 40, MARGIN, [], []
    for index, (tables, words, way) in enumerate(FLOW):
        height = 14 + 18 * (len(tables) + 1)
        kind = "box yours" if index in YOURS else "box"
        parts.append(f'<rect class="{kind}" x="{MARGIN}" y="{y}" width="{wide}" height="{height}" rx="5"/>')
        for line, names in enumerate(tables):
            parts.append(text(MARGIN + 10, y + 20 + 18 * line, names, "table"))
        parts.append(text(MARGIN + 10, y + 20 + 18 * len(tables), words))
        places.append((y, height))
        y += height
        if way is not None:
            parts += down(middle, y, y + 30)
            if way:
                parts.append(text(middle + 14, y + 19, way, "quiet"))
            y += 30
    (start, tall), (end, last) = places[PAST[0]], places[PAST[1]]
    begin, stop = start + tall / 2, end + last / 2
    edge = MARGIN + wide
    parts += [
        f'<path class="line" d="M{edge} {number(begin)} H{rail} V{number(stop)} H{edge + 7}"/>',
        f'<path class="head" d="M{edge + 8} {number(stop - 5)} v10 l-8 -5 z"/>',
        text(MARGIN, y + 24, "The line at the right: without a reason, the evidence.", "quiet"),
        text(MARGIN, y + 43, "Every week the model learns; a gate decides on its use.", "quiet"),
    ]
    return picture(y + 43 + MARGIN, "A night of curec, from the log to the ranker", FLOW_SAYS, parts)


def figures():
    """The rows of the file as dictionaries of texts."""
    lines = [line for line in FIGURES.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    names = lines[0].split("\t")
    return [dict(zip(names, line.split("\t"), strict=True)) for line in lines[1:]]


def is_shown(row):
    """Whether a difference is one: no 0 in its interval and, where there is one, Holm's p below 0.05."""
    apart = float(row["low"]) > 0 or float(row["high"]) < 0
    return apart and (row["holm"] == "-" or float(row["holm"]) < 0.05)


def told(row):
    """A difference as ABLATION.md writes it."""
    return f"{row['relative']} % [{row['low']}, {row['high']}]"


def place(percent):
    share = (percent - LOWEST) / (HIGHEST - LOWEST)
    return MARGIN + share * (WIDTH - 2 * MARGIN)


def interval(row, y):
    """A line from low to high with a mark at the difference; where that is beyond the axis, an arrow at its end."""
    kind = "shown" if is_shown(row) else "open"
    low, high, middle = (float(row[name]) for name in ("low", "high", "relative"))
    if middle > HIGHEST:
        end = place(HIGHEST)
        return [
            f'<path class="{kind}" d="M{number(end - 26)} {y} H{number(end - 7)}"/>',
            f'<path class="{kind}" d="M{number(end - 8)} {y - 5} v10 l8 -5 z"/>',
        ]
    return [
        f'<path class="{kind}" d="M{number(place(low))} {y} H{number(place(high))}"/>',
        f'<circle class="{kind}" cx="{number(place(middle))}" cy="{y}" r="4.5"/>',
    ]


def worth():
    rows, parts, y, before = figures(), [], 22, None
    parts.append(text(MARGIN, y, "Recall@10 of a ranker, relative difference", "heading"))
    parts.append(text(MARGIN, y + 19, "Filled: no 0 in the 95 % interval, Holm's p below 0.05", "quiet"))
    parts.append(text(MARGIN, y + 37, "(where it was made). Open: no difference shown.", "quiet"))
    y += 37
    for row in rows:
        if row["set"] != before:
            y += 32
            cases = f"{row['cases']} cases"
            parts.append(text(MARGIN, y, row["set"], "heading"))
            parts.append(text(WIDTH - MARGIN, y, cases, "figure quiet"))
            before = row["set"]
        y += 22
        parts.append(text(MARGIN, y, row["told"]))
        parts.append(text(WIDTH - MARGIN, y, told(row), "figure"))
        y += 14
        # Not across the words.
        for tick in TICKS:
            parts.append(f'<path class="{"grid" if tick else "zero"}" d="M{number(place(tick))} {y - 8} v16"/>')
        parts += interval(row, y)
    y += 26
    for tick in TICKS:
        parts.append(text(place(tick), y, f"{tick:+d} %" if tick else "0", "middle quiet"))
    return picture(y + MARGIN, "What the features are worth", WORTH_SAYS + " " + spoken(rows), parts)


def spoken(rows):
    return " ".join(f"{row['set']}, {row['arm']} - {row['against']}: {told(row)}." for row in rows)


def main():
    stale = []
    for name, made in (("flow.svg", flow()), ("worth.svg", worth())):
        path = FOLDER / name
        if "--check" in sys.argv[1:]:
            if not path.is_file() or path.read_text(encoding="utf-8") != made:
                stale.append(path.relative_to(ROOT).as_posix())
        else:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(made, encoding="utf-8")
    for name in stale:
        print(f"{name} is not what ci/charts.py writes: run it")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
