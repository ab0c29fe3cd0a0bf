#!/usr/bin/env python3
"""What a binary's size is made of: its sections, and its code by crate.

    ci/packages/size.py BINARY [--top N]

BINARY must have its symbols; the profile `ci` leaves them in (`cargo build --profile ci`), and so does
`cargo build --release --config 'profile.release.strip="none"'`. Sizes are millions of bytes. A function counts for the first crate in
its name that is not Rust's own library: what Burn instantiates for a kernel's type is the kernel's. Needs binutils; knows nothing
of curec.
"""

import argparse
import collections
import re
import subprocess
import sys

OWN = {"std", "core", "alloc", "compiler_builtins", "hashbrown"}
# A path's first segment, with the disambiguator that newer manglings print.
CRATE = re.compile(r"(?<![\w:.>])([a-z_][a-z0-9_]*)(?:\[[0-9a-f]+\])?::")


def lines(*command):
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"size.py: {error}")


def sections(binary):
    """(name, bytes) of what is loaded, or would be shipped, largest first."""
    found = []
    for line in lines("size", "--format=sysv", binary):
        match = re.fullmatch(r"(\.[\w.-]+)\s+(\d+)\s+(\d+)", line)
        if match and int(match[3]) and match[1] not in (".bss", ".tbss"):
            found.append((match[1], int(match[2])))
    return sorted(found, key=lambda entry: -entry[1])


def crate(symbol):
    """The crate that a demangled symbol counts for; "C and others" where it names none."""
    names = CRATE.findall(symbol)
    return next((name for name in names if name not in OWN), names[0] if names else "C and others")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("--top", type=int, default=30)
    arguments = parser.parse_args()
    found = sections(arguments.binary)
    print(f"{sum(size for _, size in found) / 1e6:8.1f}  all sections that a stripped binary has")
    for name, size in found[:10]:
        print(f"{size / 1e6:8.1f}  {name}")
    by_crate, seen = collections.Counter(), set()
    for line in lines("nm", "--print-size", "--defined-only", "--demangle", arguments.binary):
        match = re.fullmatch(r"([0-9a-f]+) ([0-9a-f]+) [tTwW] (.*)", line)
        # Functions that were folded into one have one address.
        if match and match[1] not in seen:
            seen.add(match[1])
            by_crate[crate(match[3])] += int(match[2], 16)
    if not by_crate:
        sys.exit("size.py: the binary has no symbols")
    print("\ncode by crate:")
    for name, size in by_crate.most_common(arguments.top):
        print(f"{size / 1e6:8.1f}  {name}")
    rest = sum(by_crate.values()) - sum(size for _, size in by_crate.most_common(arguments.top))
    print(f"{rest / 1e6:8.1f}  {max(len(by_crate) - arguments.top, 0)} others")


if __name__ == "__main__":
    main()
