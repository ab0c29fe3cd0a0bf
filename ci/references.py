#!/usr/bin/env python3
"""The reference pages in docs/reference/, made from what they describe.

    ci/references.py [--binary PATH]          # writes them
    ci/references.py --check [--binary PATH]  # exit 1 where a page is not what it would write

tables.md            the contracts, schemas/*.toml, and what their definitions read, sql/*.sql
job-file.md          src/config/job.toml, which is what `curec config` prints; so are the next two
weekly-file.md       src/config/weekly.toml
evaluation-file.md   src/config/evaluation.toml
commands.md          the help of every command of the binary; without --binary this page is left alone

Knows the form of contracts and defaults; what they mean is written in them.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:
    tomllib = None

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs/reference"

# Page, its title, its source, the command that prints the same, the page that explains it.
DEFAULTS = [
    ("job-file.md", "The job file", "job.toml", "curec config", "configuration.md"),
    ("weekly-file.md", "The weekly file", "weekly.toml", "curec config --weekly", "learning.md"),
    ("evaluation-file.md", "The evaluation's file", "evaluation.toml", "curec config --evaluation", "evaluation.md"),
]
STEPS = {
    "sql": "by SQL alone",
    "generate": "by the language model, which answers the prompts that have no answer yet; then by SQL",
    "score": "by the checks and the score, over the rows of its SQL",
    "pool": "by the sentence encoder, which embeds the texts of its SQL; each entity's vectors are pooled",
    "correct": "by the reward model, which judges the rows of its SQL",
}
GROUPS = [
    ("Inputs", "Others own these tables; curec reads them."),
    ("Published", "A night publishes these under `dt=YYYY-MM-DD`, those with a condition only where it holds."),
    ("Made on the way", "Made for the tables after them, and gone with the run."),
    ("Kept", "Append-only: the answers that were paid for, and the rows that audits found."),
    ("Learning and evaluation", "Made by `curec learn`, not by a night."),
]
LEARNING = {"ablation_contrast", "ablation_measurement", "alignment_example", "reward_example", "split"}


def names_of(items):
    return ", ".join(f"`{item}`" for item in items)


def cell(text):
    """A text in a cell of a table."""
    return re.sub(r"(?<!`)<([^>`]*)>", r"&lt;\1&gt;", text.replace("|", "\\|"))


def limits(column):
    """What a column's values must hold, besides its type."""
    told = []
    if column.get("min_length") == 1:
        told.append("Not empty.")
    elif "min_length" in column:
        told.append(f"At least {column['min_length']} characters.")
    if "min" in column and "max" in column:
        told.append(f"{column['min']} to {column['max']}.")
    elif "min" in column:
        told.append(f"At least {column['min']}.")
    elif "max" in column:
        told.append(f"At most {column['max']}.")
    if column.get("finite"):
        told.append("Finite.")
    values = column.get("values", []) + column.get("added_values", [])
    if values:
        told.append(f"One of {names_of(values)}.")
    if column.get("aliases"):
        told.append(f"Also read under the name {names_of(column['aliases'])}.")
    told += accepted(set(column.get("accept", [])))
    return " ".join(told)


def accepted(types):
    """What files may have in the type's place, other widths and layouts of the same left out."""
    if "int64" in types and "utf8_view" in types:
        yield "Files may have whole numbers."
    if "float64" in types and "int64" in types:
        yield "Files may have any numbers."
    if "timestamp_naive" in types:
        yield "Files may have timestamps of other units, and without a zone."
    if "date32" in types:
        yield "Files may have dates."


def reads(name, tables):
    """The tables that a definition names behind `from` and `join`."""
    path = ROOT / f"sql/{name}.sql"
    if not path.is_file():
        return []
    text = re.sub(r"--[^\n]*", "", path.read_text(encoding="utf-8"))
    own = set(re.findall(r"\b(\w+)\s+as\s*\(", text, flags=re.IGNORECASE))
    found = set(re.findall(r"\b(?:from|join)\s+(\w+)", text, flags=re.IGNORECASE)) - own
    return sorted(table for table in found if table.removeprefix("earlier_") in tables)


def group(contract):
    """The place of a table among GROUPS."""
    if contract["name"] in LEARNING:
        return 4
    if contract["role"] == "input":
        return 0
    if contract["role"] == "store":
        return 3
    return 1 if contract.get("partition_by") else 2


def about(contract, tables):
    """What a contract says in keys, as sentences."""
    name, build = contract["name"], contract.get("build", {})
    told = [f"Version {contract['version']}."]
    if contract.get("optional"):
        told.append("A job may leave it out.")
    if contract.get("grain"):
        told.append(f"Its key is {names_of(contract['grain'])}.")
    if contract.get("sorted_by") and contract["sorted_by"] != contract.get("grain"):
        told.append(f"Files are sorted by {names_of(contract['sorted_by'])}.")
    if build:
        told.append(f"It is made {STEPS[build['by']]}.")
    if build.get("condition"):
        key, _, value = build["condition"].partition(" = ")
        section, _, key = key.partition(".")
        said = f"is `\"{value}\"`" if value else "is set"
        told.append(f"Only where `[{section}] {key}` {said}.")
    named = reads(name, tables)
    if named:
        told.append(f"It reads {', '.join(link(table) for table in named)}.")
    files = [f"[`schemas/{name}.toml`](../../schemas/{name}.toml)"]
    if (ROOT / f"sql/{name}.sql").is_file():
        files.append(f"[`sql/{name}.sql`](../../sql/{name}.sql)")
    told.append(f"Files: {', '.join(files)}.")
    return " ".join(told)


def link(table):
    return f"[`{table}`](#{table.removeprefix('earlier_')})"


def table_section(contract, tables):
    lines = [f"### {contract['name']}", "", cell(contract["description"]), "", about(contract, tables), ""]
    lines += ["| column | type | null | meaning |", "|---|---|---|---|"]
    for column in contract["column"]:
        meaning = " ".join(part for part in (column["description"], limits(column)) if part)
        null = "yes" if column["nullable"] else ""
        lines.append(f"| `{column['name']}` | `{column['type']}` | {null} | {cell(meaning)} |")
    checks = []
    for key in contract.get("foreign_key", []):
        to = key.get("to", key["columns"])
        where = f" (where `{key['where']}`)" if "where" in key else ""
        checks.append(f"* {names_of(key['columns'])}{where}: must be in {link(key['references'])} as {names_of(to)}.")
    for audit in contract.get("audit", []):
        checks.append(f"* `{audit['name']}` ({audit['severity']}): {cell(audit['description'])}")
    if checks:
        lines += ["", "Audits:", "", *checks]
    return lines + [""]


def tables_page():
    contracts = [tomllib.loads(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "schemas").glob("*.toml"))]
    tables = {contract["name"] for contract in contracts}
    lines = [
        "# Tables", "", made_by("`schemas/` and `sql/`"), "",
        "A contract says what a table's columns are and what its rows must hold; [the graph](../architecture.md#tables) follows from",
        "what definitions read. `vector` is a fixed-size list of 32-bit floats, as wide as the sentence encoder; `timestamp_us` counts",
        "microseconds in UTC. [CONTRIBUTING.md](../../CONTRIBUTING.md#a-table) tells how to add a table.", "",
    ]
    for place, (title, said) in enumerate(GROUPS):
        of_group = [contract for contract in contracts if group(contract) == place]
        lines += [f"* [{title}](#{title.lower().replace(' ', '-')}): " + ", ".join(link(c["name"]) for c in of_group)]
    lines.append("")
    for place, (title, said) in enumerate(GROUPS):
        lines += [f"## {title}", "", said, ""]
        for contract in contracts:
            if group(contract) == place:
                lines += table_section(contract, tables)
    return lines


def sections(text):
    """The sections of a file of defaults: (name, its lines, its keys). Comments right before a section's head belong to it."""
    found, pending = [("", [], [])], []
    for line in text.splitlines():
        head = re.fullmatch(r"\[+([\w.]+)\]+", line)
        if head:
            found.append((head.group(1), [*pending, line], []))
            pending = []
        elif line.startswith("#"):
            pending.append(line)
        else:
            found[-1][1].extend([*pending, line])
            pending = []
            if key := re.match(r"(\w+)\s*=", line):
                found[-1][2].append(key.group(1))
    found[-1][1].extend(pending)
    return found


def defaults_page(title, source, command, story):
    text = (ROOT / "src/config" / source).read_text(encoding="utf-8")
    lines = [
        f"# {title}", "", made_by(f"`src/config/{source}`"), "",
        f"Every key with its default and its meaning, as `{command}` prints them. A file says only what differs.",
        f"[{story}](../{story}) explains how the keys go together.", "",
        "| section | keys |", "|---|---|",
    ]
    all_of = sections(text)
    for name, _, keys in all_of:
        shown = f"[`[{name}]`](#{anchor(name)})" if name else "[before the first section](#before-the-first-section)"
        lines.append(f"| {shown} | {names_of(keys)} |")
    lines.append("")
    for name, body, _ in all_of:
        heading = f"`[{name}]`" if name else "Before the first section"
        body = "\n".join(body).strip("\n").splitlines()
        lines += [f"## {heading}", "", "```toml", *body, "```", ""]
    return lines


def anchor(name):
    return re.sub(r"[^\w-]", "", name.lower())


def help_of(binary, command):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUREC_")}
    run = subprocess.run([binary, *command, "--help"], env=environment, capture_output=True, text=True, check=True)
    return run.stdout


def subcommands(text):
    """The commands that a help lists, its own `help` left out."""
    block = re.search(r"^Commands:\n((?:[ \t]+.*\n|\n(?=[ \t]))*)", text, flags=re.MULTILINE)
    names = re.findall(r"^  (\S+)", block.group(1), flags=re.MULTILINE) if block else []
    return [name for name in names if name != "help"]


def walk(binary, command=()):
    text = help_of(binary, command)
    yield command, text
    for name in subcommands(text):
        yield from walk(binary, (*command, name))


def commands_page(binary):
    found = list(walk(binary))
    lines = [
        "# Commands", "", made_by("the command line"), "",
        "What `curec COMMAND --help` prints. [operations.md](../operations.md#exit-codes) has the exit codes.", "",
    ]
    for command, _ in found:
        if command:
            name = " ".join(("curec", *command))
            lines.append(f"{'  ' * (len(command) - 1)}* [`{name}`](#{name.replace(' ', '-')})")
    lines.append("")
    for command, text in found:
        body = [line.rstrip() for line in text.strip("\n").splitlines()]
        lines += [f"## {' '.join(('curec', *command))}", "", "```text", *body, "```", ""]
    return lines


def made_by(source):
    return f"Made from {source} by `ci/references.py`: change these, not this page."


def main():
    parser = argparse.ArgumentParser(description="Writes docs/reference/, or checks it.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a page is not up to date")
    parser.add_argument("--binary", metavar="PATH", help="the curec binary, for commands.md")
    arguments = parser.parse_args()
    if tomllib is None:
        print("references.py: skipped: it needs Python 3.11 or newer", file=sys.stderr)
        return 0
    wanted = {"tables.md": tables_page()}
    for page, *what in DEFAULTS:
        wanted[page] = defaults_page(*what)
    if arguments.binary:
        wanted["commands.md"] = commands_page(arguments.binary)
    stale = 0
    for page, lines in wanted.items():
        path, text = FOLDER / page, "\n".join(lines).rstrip("\n") + "\n"
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        if arguments.check:
            stale += 1
            how = "ci/references.py" + (" --binary PATH" if page == "commands.md" else "")
            print(f"docs/reference/{page}: not what it is made from; run {how}")
        else:
            FOLDER.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"written: docs/reference/{page}", file=sys.stderr)
    print(f"references.py: {len(wanted)} pages, {stale} not up to date", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
