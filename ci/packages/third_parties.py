#!/usr/bin/env python3
"""What a binary is made of, from Cargo.lock and the packages' sources.

    ci/packages/third_parties.py bill [OPTIONS]       # a bill of materials, CycloneDX 1.5 as JSON
    ci/packages/third_parties.py notices [OPTIONS]    # every package with its licence, and the licences' texts

    --target TRIPLE   of which binary (default x86_64-unknown-linux-gnu)
    --features LIST   cargo's features, comma-separated; --no-default-features: without the default ones
    --offline         read what cargo has downloaded already

It prints to standard output, the same bytes for the same lock file. SOURCE_DATE_EPOCH puts a moment into the bill. Which
packages these are, `cargo tree` says: in the bill those in the binary are "required", and those that only build scripts and
macros use "excluded"; the notices have the former. Knows nothing of licences' meaning: deny.toml says which ones may be used.
"""

import argparse
import datetime
import hashlib
import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# How files with licences are called in packages.
TEXTS = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|UNLICENSE|PATENTS)([-_.].*)?", re.IGNORECASE)


def cargo(arguments, *words):
    """What cargo prints about the tree that the lock file describes."""
    command = ["cargo", *words, "--locked", *["--offline"] * arguments.offline]
    command += ["--no-default-features"] * arguments.no_default_features
    command += ["--features", arguments.features] if arguments.features else []
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"third_parties.py: cargo {words[0]} failed:\n{done.stderr.strip()}")
    return done.stdout


def edges(arguments, kinds):
    """(name, version) -> those that it uses, of edges of these kinds; our own package stands first."""
    found, above = {}, []
    printed = cargo(arguments, "tree", "--target", arguments.target, "--edges", kinds, "--prefix", "depth", "--format", " {p}")
    for line in printed.splitlines():
        depth, name, version = re.match(r"(\d+) (\S+) v(\S+)", line).groups()
        above[int(depth):] = [(name, version)]
        found.setdefault((name, version), set())
        if len(above) > 1:
            found[above[-2]].add((name, version))
    return found


class Tree:
    """What is needed of the packages that a binary is made from: `uses` between all, and which ones are `in_binary`."""

    def __init__(self, arguments):
        listed = json.loads(cargo(arguments, "metadata", "--format-version", "1"))["packages"]
        self.packages = {(package["name"], package["version"]): package for package in listed}
        self.uses = edges(arguments, "normal,build")
        self.root = next(iter(self.uses))
        self.in_binary = set(edges(arguments, "normal,no-proc-macro"))


def expression(package):
    """The licence as an SPDX expression, or None where the manifest only names a file. A slash is how it once was written."""
    return re.sub(r"\s*/\s*", " OR ", package["license"]) if package["license"] else None


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version'].replace('+', '%2B')}"


def checksums():
    """(name, version) -> SHA-256 of the package's archive, of Cargo.lock."""
    text = (ROOT / "Cargo.lock").read_text(encoding="utf-8")
    entry = re.compile(r'^name = "(.+)"\nversion = "(.+)"\nsource = ".+"\nchecksum = "([0-9a-f]{64})"$', re.MULTILINE)
    return {(name, version): checksum for name, version, checksum in entry.findall(text)}


def component(package, kind, scope, sums):
    found = {"type": kind, "bom-ref": purl(package), "name": package["name"], "version": package["version"]}
    if scope:
        found["scope"] = scope
    if package["authors"]:
        found["author"] = ", ".join(package["authors"])
    if package["description"]:
        found["description"] = " ".join(package["description"].split())
    checksum = sums.get((package["name"], package["version"]))
    if checksum:
        found["hashes"] = [{"alg": "SHA-256", "content": checksum}]
    if expression(package):
        found["licenses"] = [{"expression": expression(package)}]
    elif package["license_file"]:
        found["licenses"] = [{"license": {"name": f"see {Path(package['license_file']).name} of the package"}}]
    found["purl"] = purl(package)
    if package["repository"]:
        found["externalReferences"] = [{"type": "vcs", "url": package["repository"].strip()}]
    return found


def bill(tree):
    """The bill of materials as a JSON value."""
    sums = checksums()
    own, others = tree.packages[tree.root], sorted(name for name in tree.uses if name != tree.root)
    about = {"component": component(own, "application", None, sums)}
    moment = os.environ.get("SOURCE_DATE_EPOCH")
    if moment:
        at = datetime.datetime.fromtimestamp(int(moment), datetime.timezone.utc)
        about = {"timestamp": at.strftime("%Y-%m-%dT%H:%M:%SZ"), **about}

    def refs(names):
        return sorted(purl(tree.packages[name]) for name in names)

    content = {
        "metadata": about,
        "components": [
            component(tree.packages[name], "library", "required" if name in tree.in_binary else "excluded", sums) for name in others
        ],
        "dependencies": [
            {"ref": purl(tree.packages[name]), "dependsOn": refs(tree.uses[name])} for name in [tree.root, *others]
        ],
    }
    serial = uuid.UUID(hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32], version=4)
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{serial}", "version": 1, **content}


def texts(package):
    """(file name, text) of each licence that the package's sources hold; those in folders below belong to code that it brings."""
    folder = Path(package["manifest_path"]).parent
    named = folder / package["license_file"] if package["license_file"] else None
    files = {path for path in folder.iterdir() if TEXTS.fullmatch(path.name)}
    for path in folder.glob("*/**/*"):
        if re.fullmatch(r"(LICEN[CS]E|COPYING|NOTICE)([-_.](txt|md|MIT|APACHE|BSD.*))?", path.name, re.IGNORECASE):
            files.add(path)
    if named and named.is_file():
        files.add(named)
    for path in sorted(path for path in files if path.is_file() and path.suffix not in (".rs", ".c", ".h")):
        text = path.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").strip("\n")
        if text.strip():
            yield os.path.relpath(path, folder), text


def notices(tree):
    """The report: a list of all packages in the binary, then every text once, with the packages that it comes from."""
    own, others = tree.packages[tree.root], [tree.packages[name] for name in sorted(tree.in_binary) if name != tree.root]
    known, without = {}, []
    for package in others:
        found = list(texts(package))
        for name, text in found:
            # Copies differ in how their lines are broken.
            known.setdefault(" ".join(text.split()), (text, []))[1].append(f"{package['name']} {package['version']} ({name})")
        if not found:
            without.append(package)
    out = [f"{own['name']} {own['version']} holds code of {len(others)} packages. Their licences:", ""]
    out += [f"    {p['name']} {p['version']}: {expression(p) or 'see its text'}" for p in others]
    if without:
        out += ["", "These come without a text of their licence. Other packages bring the same ones, which stand below; of several the", "first of Apache-2.0 and MIT is used:", ""]
        out += [f"    {p['name']} {p['version']}: {expression(p) or 'none named'}, {', '.join(p['authors']) or 'no author named'}" for p in without]
    for text, holders in sorted(known.values(), key=lambda entry: (-len(entry[1]), entry[1])):
        out += ["", "=" * 100, *(f"{holder}" for holder in holders), "-" * 100, "", text]
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["bill", "notices"])
    parser.add_argument("--target", default="x86_64-unknown-linux-gnu")
    parser.add_argument("--features", default="")
    parser.add_argument("--no-default-features", action="store_true")
    parser.add_argument("--offline", action="store_true")
    arguments = parser.parse_args()
    tree = Tree(arguments)
    text = notices(tree) if arguments.what == "notices" else json.dumps(bill(tree), indent=1, ensure_ascii=False) + "\n"
    sys.stdout.buffer.write(text.encode("utf-8"))


if __name__ == "__main__":
    main()
