#!/usr/bin/env python3
"""The repository's own rules, checked on the source text.

    ci/check.py [ROOT]      # default: the folder above this one; exit 1 with one line per violation
    ci/check.py --self-test # every rule must catch a tree that breaks it

1. Direction: `src/lib.rs` declares the module tree; a file may name only modules that stand before its own there.
   `query` and `llm` do not know each other, `llm` does not know `table`. No other file declares file modules, with
   one exception: the unit tests of `src/a.rs` may stand in `src/a/tests.rs`, declared in `src/a.rs` by
   `#[cfg(test)] mod tests;`. Such a file is test code: it may use every module.
2. Fences: foreign crates are used only where CRATE_FENCES says. What the compiler can fence (printing, the environment,
   the process's end) stands in clippy.toml and in `[lints]` of Cargo.toml.
3. Tables: every `schemas/<table>.toml` has a stem of its own, every `sql/<table>.sql` has a contract of that name.
   What stands in `sql/query/` and `sql/queries/` makes no table.

It reads text, not types: comments and string literals are blanked out first, `use` trees are expanded, paths that
start with `crate::`, `super::` or a crate's name are followed. Knows nothing of macros that build paths.
"""

import re
import sys
import tempfile
from pathlib import Path

# Rule -> (pattern of the first path segment, where it may stand). A folder ends with a slash.
CRATE_FENCES = {
    "datafusion": (r"(datafusion|ballista|arrow_flight)\w*", ["src/query/", "src/generate/functions.rs", "src/generate/carried.rs"]),
    "burn": (r"(burn|cubecl|cubek)\w*", ["src/llm/", "src/network/", "src/reward/", "src/feature.rs", "src/learn/", "src/recommend/", "src/evaluate/"]),
    # query/session.rs and query/cluster/stores.rs hand the stores to DataFusion and name their trait for it.
    "object_store": (r"object_store", ["src/table/", "src/query/session.rs", "src/query/cluster/stores.rs"]),
    "clap": (r"clap\w*", ["src/cli/"]),
    "llguidance": (r"(llguidance|toktrie)\w*", ["src/llm/grammar.rs"]),
    "reqwest": (r"reqwest", ["src/generate/chat_completions.rs", "src/watch/http.rs"]),
    "rustyline": (r"rustyline", ["src/cli/"]),
    "polars": (r"polars\w*", ["src/operate/import/", "src/operate/inspect.rs"]),
}
TESTS = "tests.rs"
STRANGERS = {"query": {"llm"}, "llm": {"query", "table"}}


def blank(source):
    """The source with comments, strings and character literals replaced by spaces; lines stay where they are."""
    out, i, n = list(source), 0, len(source)

    def wipe(start, end):
        for k in range(start, min(end, n)):
            if out[k] != "\n":
                out[k] = " "

    while i < n:
        two = source[i:i + 2]
        if two == "//":
            end = source.find("\n", i)
            end = n if end < 0 else end
        elif two == "/*":
            depth, end = 1, i + 2
            while end < n and depth:
                step = source[end:end + 2]
                depth += (step == "/*") - (step == "*/")
                end += 2 if step in ("/*", "*/") else 1
        elif m := re.compile(r'(?<![\w])(?:b|c)?r(#*)"').match(source, i):
            close = source.find('"' + m.group(1), m.end())
            end = n if close < 0 else close + 1 + len(m.group(1))
        elif source[i] == '"':
            end = i + 1
            while end < n and source[end] != '"':
                end += 2 if source[end] == "\\" else 1
            end += 1
        elif m := re.compile(r"'(?:\\(?:u\{[0-9a-fA-F_]+\}|x[0-9a-fA-F]{2}|.)|[^\\'\n])'").match(source, i):
            end = m.end()
        else:
            i += 1
            continue
        wipe(i, end)
        i = end
    return "".join(out)


def closing(text, start):
    """The position after the brace that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return i + 1
    return len(text)


def inline_modules(text):
    """(start, end) of every `mod name { ... }`."""
    return [(m.start(), closing(text, m.end() - 1)) for m in re.finditer(r"\bmod\s+\w+\s*\{", text)]


def file_modules(text):
    """(start, name, is_test) of every `mod name;`."""
    found = []
    for m in re.finditer(r"((?:#\[[^\]]*\]\s*)*)(?:pub(?:\([^)]*\))?\s+)?\bmod\s+(\w+)\s*;", text):
        found.append((m.start(), m.group(2), bool(re.search(r"cfg\(\s*test\s*\)", m.group(1)))))
    return found


def expand(tree):
    """The paths of a use tree, each as a list of segments."""
    tree = tree.strip()
    brace = tree.find("{")
    if brace < 0:
        path = re.sub(r"\s+as\s+\w+$", "", tree)
        return [[s.strip() for s in path.split("::") if s.strip()]]
    head = [s.strip() for s in tree[:brace].split("::") if s.strip()]
    inner, parts, depth, part = tree[brace + 1:tree.rfind("}")], [], 0, ""
    for c in inner:
        depth += (c == "{") - (c == "}")
        if c == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += c
    return [head + path for p in parts + [part] if p.strip() for path in expand(p)]


def paths(text):
    """(position, segments) of every path that `use` or an expression spells out from a first segment."""
    used = []
    for m in re.finditer(r"\buse\s+([^;]+);", text):
        used.append(m.span())
        for path in expand(m.group(1)):
            yield m.start(), path
    for m in re.finditer(r"(?<![\w:.])\$?\w+(?:\s*::\s*\w+)+", text):
        if not any(a <= m.start() < b for a, b in used):
            yield m.start(), [s.strip().lstrip("$") for s in m.group(0).split("::")]


def module_tree(lib):
    """Module paths in the order of declaration: {("table", "store"): 5, ...}, folders included."""
    text, order, stack = blank(lib), {}, []
    for m in re.finditer(r"\bmod\s+(\w+)\s*([;{])|([{}])", text):
        name, how, brace = m.groups()
        if name and how == ";":
            order[tuple(s for s in stack if s) + (name,)] = len(order)
        elif name:
            stack.append(name)
            order[tuple(s for s in stack if s)] = len(order)
        elif brace == "{":
            stack.append("")
        elif stack:
            stack.pop()
    return order


class Checker:
    """Collects violations of one tree."""

    def __init__(self, root):
        self.root = Path(root)
        self.found = []
        self.order = module_tree((self.root / "src/lib.rs").read_text(encoding="utf-8"))

    def add(self, file, text, position, rule, message):
        line = text.count("\n", 0, position) + 1
        self.found.append(f"{file}:{line}: {rule}: {message}")

    def run(self):
        files = sorted((self.root / "src").rglob("*.rs"))
        for path in files:
            file = path.relative_to(self.root).as_posix()
            text = blank(path.read_text(encoding="utf-8"))
            modules = inline_modules(text)
            found = list(paths(text))
            if file == "src/lib.rs":
                continue
            self.direction(file, text, modules, found)
            self.fences(file, text, found)
        self.declared(files)
        self.tables()
        return sorted(set(self.found))

    def resolve(self, segments):
        """The deepest declared module that the path goes through, or None."""
        best = None
        for n in range(1, len(segments) + 1):
            if tuple(segments[:n]) in self.order:
                best = tuple(segments[:n])
        return best

    def last(self, module):
        """The place of a module's last file: naming a folder means naming everything in it."""
        return max(i for m, i in self.order.items() if m[:len(module)] == module)

    def direction(self, file, text, modules, found):
        own = tuple(Path(file).with_suffix("").parts[1:])
        if file == "src/main.rs":
            for position, path in found:
                if path[0] == "curec" and len(path) > 1 and path[1] not in ("cli", "error"):
                    self.add(file, text, position, "direction", f"main.rs may use curec::cli only, not {'::'.join(path)}")
            return
        if own not in self.order:
            return
        for position, path in found:
            if path[0] == "crate":
                target = path[1:]
            elif path[0] == "super":
                supers = next((i for i, s in enumerate(path) if s != "super"), len(path))
                up = supers - sum(a < position < b for a, b in modules)
                if up <= 0:
                    continue
                target = list(own[:len(own) - up]) + path[supers:]
            else:
                continue
            module = self.resolve(target)
            if module is None:
                what = "::".join(target)
                self.add(file, text, position, "direction", f"crate::{what} is in no module that src/lib.rs declares")
            elif module != own and self.last(module) >= self.order[own]:
                names = "::".join(module), "::".join(own)
                self.add(file, text, position, "direction", f"{names[1]} may not use {names[0]}, which stands after it")
            elif module[0] in STRANGERS.get(own[0], ()):
                self.add(file, text, position, "direction", f"{own[0]} may not know {module[0]}")

    def fences(self, file, text, found):
        # Unit tests beside a file may use the crates that the file may use.
        owner = self.tested(file) or file

        def allowed(places):
            return any(owner == p or (p.endswith("/") and owner.startswith(p)) for p in places)

        for position, path in found:
            for rule, (pattern, places) in CRATE_FENCES.items():
                if re.fullmatch(pattern, path[0]) and not allowed(places):
                    self.add(file, text, position, "fence", f"{path[0]} belongs in {', '.join(places)} only")

    def tested(self, file):
        """The declared file whose unit tests `file` holds, or None: `src/a/tests.rs` belongs to `src/a.rs`."""
        path = Path(file)
        own = path.with_suffix("").parts[1:]
        if path.name != TESTS or tuple(own) in self.order or tuple(own[:-1]) not in self.order:
            return None
        owner = path.parent.with_suffix(".rs")
        return owner.as_posix() if (self.root / owner).is_file() else None

    def declared(self, files):
        for path in files:
            file = path.relative_to(self.root).as_posix()
            if file in ("src/lib.rs", "src/main.rs"):
                continue
            owner = self.tested(file)
            if owner:
                text = blank((self.root / owner).read_text(encoding="utf-8"))
                if not any(name == "tests" for _, name, _ in file_modules(text)):
                    self.found.append(f"{file}:1: direction: {owner} does not declare its tests")
            elif tuple(Path(file).with_suffix("").parts[1:]) not in self.order:
                self.found.append(f"{file}:1: direction: src/lib.rs does not declare this file")
            text = blank(path.read_text(encoding="utf-8"))
            for position, name, is_test in file_modules(text):
                if name != "tests" or owner:
                    self.add(file, text, position, "direction", "file modules are declared in src/lib.rs only")
                elif not is_test:
                    self.add(file, text, position, "direction", "mod tests; must stand under #[cfg(test)]")

    def tables(self):
        stems = {}
        for path in sorted((self.root / "schemas").rglob("*.toml")):
            file = path.relative_to(self.root).as_posix()
            if path.stem in stems:
                self.found.append(f"{file}:1: tables: {stems[path.stem]} already defines the table {path.stem}")
            stems[path.stem] = file
        for path in sorted((self.root / "sql").rglob("*.sql")):
            file = path.relative_to(self.root).as_posix()
            if path.stem not in stems and not file.startswith(("sql/query/", "sql/queries/")):
                self.found.append(f"{file}:1: tables: there is no schemas/{path.stem}.toml")


LIB = """//! docs naming crate::cli do not count
pub mod error;
pub mod config;
pub mod telemetry;
pub mod table { pub mod contract; pub mod store; }
pub mod query { pub mod session; pub mod model; }
/// doc { with a brace
pub mod llm { pub mod device; pub mod decoder; }
pub mod generate { pub mod engine; pub mod functions; }
pub mod reward { pub mod score; }
pub mod feature;
pub mod job { pub mod run; }
pub mod operate { pub mod import { pub mod csv; } pub mod inspect; }
pub mod cli { pub mod commands; }
"""

# (file, its text or every file's text, part of the expected message; None = must pass)
CASES = [
    ("src/config.rs", "use crate::error::Error;", None),
    ("src/config.rs", "use crate::telemetry::Bar;", "config may not use telemetry"),
    ("src/config.rs", "fn f() { crate::job::run::go() }", "config may not use job::run"),
    ("src/config.rs", "// crate::job::run\nconst A: &str = \"crate::job\"; const C: char = '\"'; /* crate::cli */", None),
    ("src/config.rs", "const A: &str = r#\"a \" crate::cli\"#; fn f<'a>(x: &'a str) {}", None),
    ("src/table/store.rs", "use crate::{error::{Error, Kind}, table::contract::Contract};", None),
    ("src/table/store.rs", "use super::contract::Contract;", None),
    ("src/table/contract.rs", "use super::store::Store;", "table::contract may not use table::store"),
    ("src/table/contract.rs", "use crate::{error::Error, table::{store::Store}};", "may not use table::store"),
    ("src/table/contract.rs", "use crate::table;", "table::contract may not use table"),
    ("src/table/contract.rs", "#[cfg(test)]\nmod tests { use super::*; fn f() { super::g() } }", None),
    ("src/table/contract.rs", "mod tests { use super::super::store::S; }", "may not use table::store"),
    ("src/table/contract.rs", "use crate::Thing;", "is in no module"),
    ("src/table/contract.rs", "macro_rules! m { () => { $crate::query::session::S } }", "may not use query::session"),
    ("src/llm/device.rs", "use crate::query::session::Session;", "llm may not know query"),
    ("src/llm/device.rs", "use crate::table::store::Store;", "llm may not know table"),
    ("src/query/session.rs", "use crate::llm::device::open;", "query::session may not use llm::device"),
    ("src/query/session.rs", "use datafusion::prelude::*; use object_store::ObjectStore;", None),
    ("src/query/model.rs", "use object_store::ObjectStore;", "object_store belongs in"),
    ("src/job/run.rs", "fn f(s: datafusion_common::ScalarValue) {}", "datafusion_common belongs in"),
    ("src/job/run.rs", "use ballista_core::config::BallistaConfig;", "ballista_core belongs in"),
    ("src/query/model.rs", "use ballista_core::config::BallistaConfig;", None),
    ("src/generate/functions.rs", "use datafusion::logical_expr::ScalarUDF;", None),
    ("src/generate/engine.rs", "use burn::tensor::Tensor;", "burn belongs in"),
    ("src/feature.rs", "use {burn_store::X, std::fmt};", None),
    ("src/job/run.rs", "use {burn_store::X, std::fmt};", "burn_store belongs in"),
    ("src/job/run.rs", "use clap::Parser;", "clap belongs in"),
    ("src/job/run.rs", "use reqwest::Client;", "reqwest belongs in"),
    ("src/cli/commands.rs", "use clap::Parser; use clap_complete::generate;", None),
    ("src/cli/commands.rs", "use rustyline::Editor;", None),
    ("src/query/session.rs", "use rustyline::Editor;", "rustyline belongs in"),
    ("src/table/store.rs", "use polars::prelude::*;", "polars belongs in"),
    ("src/operate/import/csv.rs", "use polars::prelude::*;", None),
    ("src/job/run.rs", "mod helper;", "declared in src/lib.rs only"),
    ("src/job/extra.rs", "", "does not declare this file"),
    ("src/job/run.rs", "#[cfg(test)]\nmod helper;", "declared in src/lib.rs only"),
    ("src/job/run.rs", "#[cfg(test)]\nmod tests;", None),
    ("src/job/run.rs", "#[cfg(test)]\n#[allow(dead_code)]\npub(crate) mod tests;", None),
    ("src/job/run.rs", "mod tests;", "must stand under #[cfg(test)]"),
    ("src/job/run.rs", "#[cfg(feature = \"test\")]\nmod tests;", "must stand under #[cfg(test)]"),
    ("src/config/tests.rs", {
        "src/config.rs": "#[cfg(test)]\nmod tests;",
        "src/config/tests.rs": "use super::*; use crate::job::run::go; fn f() { println!(); std::env::var(\"A\"); }",
    }, None),
    ("src/config/tests.rs", {
        "src/config.rs": "mod tests;",
        "src/config/tests.rs": "use crate::job::run::go;",
    }, "must stand under #[cfg(test)]"),
    ("src/config/tests.rs", {
        "src/config.rs": "",
        "src/config/tests.rs": "",
    }, "does not declare its tests"),
    ("src/config/tests.rs", {
        "src/config.rs": "#[cfg(test)]\nmod tests;",
        "src/config/tests.rs": "mod helper;",
    }, "declared in src/lib.rs only"),
    ("src/feature/tests.rs", {
        "src/feature.rs": "#[cfg(test)]\nmod tests;",
        "src/feature/tests.rs": "use burn::tensor::Tensor;",
    }, None),
    ("src/config/tests.rs", {
        "src/config.rs": "#[cfg(test)]\nmod tests;",
        "src/config/tests.rs": "use burn::tensor::Tensor;",
    }, "burn belongs in"),
    ("src/job/tests.rs", "", "does not declare this file"),
    ("src/main.rs", "fn main() { curec::cli::main() }", None),
    ("src/main.rs", "fn main() { curec::job::run::go() }", "main.rs may use curec::cli only"),
    ("schemas/a/item.toml", "", "already defines the table item"),
    ("sql/user_history.sql", "select 1", "no schemas/user_history.toml"),
    ("sql/item.sql", "select 1", None),
    ("sql/query/tally.sql", "select 1", None),
    ("sql/queries/cost.sql", "select 1", None),
    ("sql/other/tally.sql", "select 1", "no schemas/tally.toml"),
]


def self_test():
    failed = 0
    for file, text, expected in CASES:
        files = text if isinstance(text, dict) else {file: text}
        with tempfile.TemporaryDirectory() as folder:
            for name, content in {"src/lib.rs": LIB, "schemas/item.toml": "", **files}.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
            found = Checker(folder).run()
        right = not found if expected is None else len(found) == 1 and expected in found[0]
        if not right:
            failed += 1
            print(f"self-test: {file} {text!r}: expected {expected!r}, found {found}", file=sys.stderr)
    print(f"check.py self-test: {len(CASES) - failed} of {len(CASES)} cases right", file=sys.stderr)
    return failed


def main():
    if "--self-test" in sys.argv[1:]:
        return 1 if self_test() else 0
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    found = Checker(root).run()
    for line in found:
        print(line)
    count = len(list((root / "src").rglob("*.rs")))
    print(f"check.py: {count} files, {len(found)} violations", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
