#!/usr/bin/env python3
"""A Python wheel that carries a built binary: `pip install` puts it on the path. It holds no Python.

    ci/packages/wheel.py BINARY --out FOLDER [--licence FILE]... [--bill FILE]

Prints the wheel's path. Its platform is read from the binary: the machine, and the oldest glibc that has all symbols that it
needs (manylinux, PEP 600), or none where it is linked statically (musllinux too, PEP 656). A binary that needs other libraries
than such platforms promise is refused. Name, version and licence are Cargo.toml's; SOURCE_DATE_EPOCH is the files' time, so that
the same binary makes the same wheel. Knows ELF and the wheel format; knows nothing of what the binary does.
"""

import argparse
import base64
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MACHINES = {62: "x86_64", 183: "aarch64"}
# What each manylinux platform has; Rust's standard library needs no other.
LIBRARIES = re.compile(r"(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|ld-linux-[\w-]+)\.so\.\d+")
PROGRAM_INTERPRETER, DYNAMIC, VERSIONS_NEEDED = 3, 6, 0x6FFFFFFE
# Platforms of older glibcs do not exist for these machines.
OLDEST = (2, 17)


class Refused(Exception):
    """The binary cannot be put into a wheel; the text says why."""


def text_at(data, offset):
    return data[offset:data.index(b"\0", offset)].decode()


def sections(data):
    """(type, offset, size, section that it links to) of each section of a 64-bit little-endian ELF file."""
    start, = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    for n in range(count):
        kind, _, _, offset, length, link = struct.unpack_from("<IQQQQI", data, start + n * size + 4)
        yield kind, offset, length, link


def needs(data):
    """(machine, libraries, oldest glibc as (major, minor) or None where nothing is linked at run time) of a binary."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise Refused("it is no 64-bit little-endian ELF file")
    machine = MACHINES.get(struct.unpack_from("<H", data, 18)[0])
    if machine is None:
        raise Refused(f"it is for another machine than {', '.join(MACHINES.values())}")
    all_sections = list(sections(data))
    libraries, glibc = [], []
    for kind, offset, length, link in all_sections:
        if kind == DYNAMIC:
            names = all_sections[link][1]
            entries = [struct.unpack_from("<qQ", data, at) for at in range(offset, offset + length, 16)]
            libraries += [text_at(data, names + value) for tag, value in entries if tag == 1]
        elif kind == VERSIONS_NEEDED:
            names = all_sections[link][1]
            following = 1
            while following:
                _, count, _, auxiliary, following = struct.unpack_from("<HHIII", data, offset)
                at = offset + auxiliary
                for _ in range(count):
                    _, _, _, name, step = struct.unpack_from("<IHHII", data, at)
                    version = re.fullmatch(r"GLIBC_(\d+)\.(\d+)(\.\d+)?", text_at(data, names + name))
                    glibc += [(int(version[1]), int(version[2]))] if version else []
                    at += step
                offset += following
    return machine, libraries, max([OLDEST, *glibc]) if libraries else None


def platform(data):
    """The wheel's platform tag."""
    machine, libraries, glibc = needs(data)
    foreign = [name for name in libraries if not LIBRARIES.fullmatch(name)]
    if foreign:
        raise Refused(f"it needs {', '.join(foreign)}, which not every Linux has")
    if glibc is None:
        return f"manylinux_{OLDEST[0]}_{OLDEST[1]}_{machine}.musllinux_1_1_{machine}"
    return f"manylinux_{glibc[0]}_{glibc[1]}_{machine}"


def package():
    """What Cargo.toml says of the package."""
    command = ["cargo", "metadata", "--no-deps", "--locked", "--offline", "--format-version", "1"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)["packages"][0]


def python_version(version):
    """Cargo's version as PEP 440 writes it: 1.2.0-rc.1 is 1.2.0rc1."""
    found = re.fullmatch(r"(\d+\.\d+\.\d+)(?:-(alpha|beta|rc)\.?(\d+))?", version)
    if not found:
        raise Refused(f"Python has no form for the version {version}")
    return found[1] + ({"alpha": "a", "beta": "b", "rc": "rc"}[found[2]] + found[3] if found[2] else "")


def write(binary, out, licences, bill):
    """Writes the wheel and returns its path."""
    data, about = binary.read_bytes(), package()
    tag, version, name = f"py3-none-{platform(data)}", python_version(about["version"]), about["name"]
    info = f"{name}-{version}.dist-info"
    metadata = [
        "Metadata-Version: 2.4",
        f"Name: {name}",
        f"Version: {version}",
        f"Summary: {about['description']}",
        f"License-Expression: {about['license']}",
        *(f"License-File: {path.name}" for path in licences),
        "Requires-Python: >=3.8",
        "Description-Content-Type: text/plain",
        "",
        f"One binary, {name}; `{name} --help` lists its commands. The wheel holds no Python.",
    ]
    tags = [f"Tag: py3-none-{part}" for part in platform(data).split(".")]
    wheel = ["Wheel-Version: 1.0", f"Generator: {name} ({about['version']})", "Root-Is-Purelib: false", *tags]
    files = [(f"{name}-{version}.data/scripts/{name}", data, 0o755)]
    files += [(f"{info}/licenses/{path.name}", path.read_bytes(), 0o644) for path in licences]
    files += [(f"{info}/sboms/{path.name}", path.read_bytes(), 0o644) for path in ([bill] if bill else [])]
    files.append((f"{info}/METADATA", "\n".join([*metadata, ""]).encode(), 0o644))
    files.append((f"{info}/WHEEL", "\n".join([*wheel, ""]).encode(), 0o644))
    record = ""
    for path, content, _ in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content)}\n"
    files.append((f"{info}/RECORD", f"{record}{info}/RECORD,,\n".encode(), 0o644))

    # A zip file knows no time before 1980.
    moment = time.gmtime(max(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), 315532800))[:6]
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, content, mode in files:
            entry = zipfile.ZipInfo(inside, moment)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, (0o100000 | mode) << 16
            archive.writestr(entry, content)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--licence", type=Path, action="append", default=[])
    parser.add_argument("--bill", type=Path)
    arguments = parser.parse_args()
    try:
        print(write(arguments.binary, arguments.out, arguments.licence, arguments.bill))
    except Refused as why:
        sys.exit(f"wheel.py: {arguments.binary}: {why}")
    except OSError as error:
        sys.exit(f"wheel.py: {error}")


if __name__ == "__main__":
    main()
