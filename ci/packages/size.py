#!/usr/bin/env python3
"""What a binary's size is made of: its sections, and code with its unwinding tables by family of crates and by crate.

    ci/packages/size.py BINARY [--top N] [--markdown]

BINARY must have its symbols; the profile `ci` leaves them in (`cargo build --profile ci`), and so does
`cargo build --release --config 'profile.release.strip="none"'`. Sizes are millions of bytes. A function counts for the crate whose
compilation made it: what another crate's generics become there goes with it. Reads 64-bit little-endian ELF files itself; knows nothing
of what curec does.
"""

import argparse
import bisect
import collections
import re
import struct
import sys
from pathlib import Path

FAMILIES = [
    ("DataFusion, sqlparser", r"datafusion\w*|sqlparser"),
    ("Arrow, Parquet", r"arrow\w*|parquet|brotli\w*|lz4\w*|zstd\w*|snap|zlib_rs|flate2|lexical\w*"),
    ("Polars", r"polars\w*"),
    ("Burn on GPUs", r"burn_(cubecl|wgpu)|cube(cl|k)\w*|wgpu\w*|naga\w*|pliron|spirv|gpu_\w+|ash"),
    ("Burn on CPUs, autodiff", r"burn\w*|gemm\w*"),
    ("object stores, HTTP, TLS", r"object_store|reqwest|hyper\w*|rustls\w*|webpki|ring|h2|http\w*|quick_xml"),
    ("text, tokenizers, grammars", r"tokenizers|llguidance|derivre|toktrie|regex\w*|fancy_regex|aho_corasick|minijinja\w*|unicode\w*"),
]
REST, C = "all others", "C and assembler"


class Refused(Exception):
    """Why a file has no such table."""


def sections(data):
    """{name: (address, offset, bytes)} of an ELF file; None for the place of what takes none of the file."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise Refused("it is no 64-bit little-endian ELF file")
    start, = struct.unpack_from("<Q", data, 40)
    count, names = struct.unpack_from("<HH", data, 60)
    headers = [struct.unpack_from("<IIQQQQ", data, start + 64 * n) for n in range(count)]
    base = headers[names][4]
    found = {}
    for name, kind, _, address, offset, size in headers[1:]:
        text = data[base + name:data.index(b"\0", base + name)].decode()
        found[text] = (address, None if kind == 8 else offset, size)
    return found


def crate(unit, program):
    """The crate of a codegen unit by the name of its file; incremental ones, which have hashes alone, are of the program."""
    match = re.match(r"(\w+)\.[0-9a-f]+-cgu", unit)
    return match[1] if match else program if re.fullmatch(r"[0-9a-z]{25}", unit) else C


def functions(data, found, program):
    """[(address, bytes, crate)] by address. Those with a name that only one object sees stand behind its file's name in the table;
    the linker keeps the functions of an object together, which tells whose the others are."""
    if ".symtab" not in found:
        raise Refused("it has no symbols")
    (_, start, size), (_, strings, _) = found[".symtab"], found[".strtab"]
    unit, local, shared, ends = "", {}, {}, {}
    for name, info, _, section, value, length in struct.iter_unpack("<IBBHQQ", data[start:start + size]):
        if info & 15 == 4:
            unit = data[strings + name:data.index(b"\0", strings + name)].decode(errors="replace")
        elif info & 15 == 2 and section and length:
            ends[value] = max(length, ends.get(value, 0))
            (shared if info >> 4 else local)[value] = name if info >> 4 else crate(unit, program)
    places = sorted(local)
    for value, name in shared.items():
        if value not in local:
            at = bisect.bisect(places, value)
            sides = [local[places[n]] for n in (at - 1, at) if 0 <= n < len(places)] or [C]
            text = data[strings + name:data.index(b"\0", strings + name)].decode(errors="replace")
            local[value] = next((side for side in sides if f"{len(side)}{side}" in text), sides[0])
    return sorted((value, length, local[value]) for value, length in ends.items())


def unwinding(data, found):
    """{a function's address: bytes of its tables}: its entry of .eh_frame, and of .gcc_except_table where it has one there."""
    address, start, size = found.get(".eh_frame", (0, 0, 0))
    tables, handlers, kinds, at = collections.Counter(), {}, {}, start
    while at < start + size and (length := struct.unpack_from("<I", data, at)[0]):
        back, = struct.unpack_from("<I", data, at + 4)
        if not back:
            kinds[at] = data[at + 9:data.index(b"\0", at + 9)]
        else:
            begin = struct.unpack_from("<i", data, at + 8)[0] + address + at + 8 - start
            tables[begin] += length + 4
            # The length of what follows is one byte, since it is four; then where the handlers lie, relative to itself.
            if b"L" in kinds.get(at + 4 - back, b"") and (near := struct.unpack_from("<i", data, at + 17)[0]):
                handlers[near + address + at + 17 - start] = begin
        at += length + 4
    first, _, size = found.get(".gcc_except_table", (0, 0, 0))
    places = sorted(handlers) + [first + size]
    for here, after in zip(places, places[1:]):
        tables[handlers[here]] += after - here
    return tables


def family(name):
    return next((text for text, pattern in FAMILIES if re.fullmatch(pattern, name)), REST)


def table(data, program):
    """({crate: [bytes of code, of unwinding tables]}, {section: bytes that a stripped file has})."""
    found = sections(data)
    tables, sizes = unwinding(data, found), collections.defaultdict(lambda: [0, 0])
    for value, length, name in functions(data, found, program):
        sizes[name][0] += length
        sizes[name][1] += tables.get(value, 0)
    kept = {name: size for name, (address, offset, size) in found.items() if address and offset is not None}
    return dict(sizes), kept


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--top", type=int, default=30, help="crates to list (default 30)")
    parser.add_argument("--markdown", action="store_true", help="the families as a table for docs/packages.md")
    arguments = parser.parse_args()
    try:
        crates, kept = table(arguments.binary.read_bytes(), arguments.binary.name)
    except (OSError, Refused) as error:
        sys.exit(f"size.py: {arguments.binary}: {error}")
    families = collections.defaultdict(lambda: [0, 0])
    for name, (code, unwind) in crates.items():
        own = arguments.binary.name if name == arguments.binary.name else family(name)
        families[own] = [families[own][0] + code, families[own][1] + unwind]
    everything = sum(kept.values())
    known = sum(map(sum, families.values()))
    rows = sorted(((sum(pair), *pair, name) for name, pair in families.items()), reverse=True)
    rows.append((everything - known, 0, 0, "data, relocations and what no function has"))
    rows.append((everything, *map(sum, zip(*families.values())), "all that a stripped binary has"))
    if arguments.markdown:
        print("| | MB | code | unwinding |\n|---|---|---|---|")
        for whole, code, unwind, name in rows:
            print(f"| {name} | {whole / 1e6:.1f} | {code / 1e6:.1f} | {unwind / 1e6:.1f} |")
        return
    for name, size in sorted(kept.items(), key=lambda entry: -entry[1])[:10]:
        print(f"{size / 1e6:8.1f}  {name}")
    print("\n     all     code   unwinding")
    for whole, code, unwind, name in [*rows, *sorted(((sum(pair), *pair, name) for name, pair in crates.items()), reverse=True)[:arguments.top]]:
        print(f"{whole / 1e6:8.1f} {code / 1e6:8.1f} {unwind / 1e6:8.1f}   {name}")


if __name__ == "__main__":
    main()
