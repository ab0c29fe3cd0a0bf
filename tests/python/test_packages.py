"""What ci/release.sh is made of: the bill of materials, the notices, the wheel, and how image and toolchain agree.

With CUREC_BIN, as tests/cli/packages.rs runs it, the whole of ci/release.sh packs that binary, and pip installs the wheel.
"""

import csv
import hashlib
import importlib.util
import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / "ci/packages"
BINARY = os.environ.get("CUREC_BIN")
CYCLONEDX = importlib.util.find_spec("cyclonedx") and importlib.util.find_spec("jsonschema")


def load(name):
    spec = importlib.util.spec_from_file_location(name, PACKAGES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WHEEL = load("wheel")


def third_parties(what, *options):
    command = [sys.executable, PACKAGES / "third_parties.py", what, "--offline", *options]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    done = subprocess.run(command, capture_output=True, env=environment)
    if done.returncode:
        raise AssertionError(done.stderr.decode())
    return done.stdout


def has_sources():
    """Whether cargo has the sources of all packages in Cargo.lock; `cargo fetch --locked` gets them."""
    command = ["cargo", "metadata", "--locked", "--offline", "--format-version", "1"]
    return bool(shutil.which("cargo")) and subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def elf(libraries=(), versions=(), machine=62):
    """A 64-bit ELF file with nothing but what the loader is told: libraries, and versions of symbols of the first of them."""
    names, places = b"\0", {}
    for name in [*libraries, *versions]:
        places[name] = len(names)
        names += name.encode() + b"\0"
    dynamic = b"".join(struct.pack("<qQ", 1, places[name]) for name in libraries) + struct.pack("<qQ", 0, 0)
    needed = struct.pack("<HHIII", 1, len(versions), places[libraries[0]], 16, 0) if versions else b""
    for n, name in enumerate(versions):
        needed += struct.pack("<IHHII", 0, 0, n + 2, places[name], 16 if n + 1 < len(versions) else 0)
    parts = [(0, b"", 0), (3, names, 0), (6, dynamic, 1)] if libraries else [(0, b"", 0), (3, names, 0)]
    parts += [(0x6FFFFFFE, needed, 1)] if versions else []
    body, headers = b"", b""
    for kind, content, link in parts:
        headers += struct.pack("<IIQQQQIIQQ", 0, kind, 0, 0, 64 + len(body), len(content), link, 0, 1, 0)
        body += content
    start = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQ", 3, machine, 1, 0, 0, 64 + len(body))
    return start + struct.pack("<IHHHHHH", 0, 64, 0, 0, 64, len(parts), 0) + body + headers


class Platforms(unittest.TestCase):
    def test_the_platform_is_the_newest_glibc_that_a_symbol_needs(self):
        libraries = ["libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2"]
        versions = ["GLIBC_2.9", "GLIBC_2.28", "GLIBC_2.2.5", "GCC_3.0"]
        self.assertEqual(WHEEL.platform(elf(libraries, versions)), "manylinux_2_28_x86_64")
        self.assertEqual(WHEEL.platform(elf(libraries, versions, machine=183)), "manylinux_2_28_aarch64")
        self.assertEqual(WHEEL.platform(elf(libraries, ["GLIBC_2.4"])), "manylinux_2_17_x86_64")
        self.assertEqual(WHEEL.platform(elf()), "manylinux_2_17_x86_64.musllinux_1_1_x86_64")

    def test_what_does_not_run_everywhere_is_refused(self):
        for data, why in [
            (b"#!/bin/sh\n", "no 64-bit"),
            (elf(machine=243), "another machine"),
            (elf(["libc.so.6", "libonnxruntime.so.1"]), "needs libonnxruntime.so.1"),
        ]:
            with self.assertRaisesRegex(WHEEL.Refused, why):
                WHEEL.platform(data)

    def test_versions_are_written_as_python_does(self):
        self.assertEqual([WHEEL.python_version(v) for v in ("0.1.0", "1.2.0-rc.1", "1.2.0-beta2")], ["0.1.0", "1.2.0rc1", "1.2.0b2"])
        with self.assertRaises(WHEEL.Refused):
            WHEEL.python_version("1.2.0-nightly")


@unittest.skipUnless(shutil.which("cargo"), "cargo was not found")
class Wheels(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def wheel(self, data, out="out"):
        binary = self.folder / "binary"
        binary.write_bytes(data)
        command = [sys.executable, PACKAGES / "wheel.py", binary, "--out", self.folder / out, "--licence", ROOT / "LICENSE-MIT"]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "SOURCE_DATE_EPOCH": "1767225600"})

    def test_a_wheel_is_what_its_record_says_and_the_same_each_time(self):
        data = elf(["libc.so.6"], ["GLIBC_2.28"])
        done = self.wheel(data)
        self.assertEqual(done.returncode, 0, done.stderr)
        path = Path(done.stdout.strip())
        self.assertRegex(path.name, r"^curec-[\w.]+-py3-none-manylinux_2_28_x86_64\.whl$")
        self.assertEqual(Path(self.wheel(data, "again").stdout.strip()).read_bytes(), path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            info = next(name for name in names if name.endswith("/RECORD")).removesuffix("/RECORD")
            rows = list(csv.reader(archive.read(f"{info}/RECORD").decode().splitlines()))
            self.assertEqual([row[0] for row in rows], names)
            for name, _, size in rows[:-1]:
                self.assertEqual(len(archive.read(name)), int(size))
            program = next(entry for entry in archive.infolist() if entry.filename.endswith(".data/scripts/curec"))
            self.assertEqual((archive.read(program), stat.S_IMODE(program.external_attr >> 16)), (data, 0o755))
            self.assertIn("License-Expression: MIT OR Apache-2.0\n", archive.read(f"{info}/METADATA").decode())

    def test_a_script_is_no_binary(self):
        done = self.wheel(b"#!/bin/sh\n")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("no 64-bit little-endian ELF file", done.stderr)
        self.assertNotIn("Traceback", done.stderr)


class ThirdParties(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if not has_sources():
            raise unittest.SkipTest("cargo has not the sources of all packages; cargo fetch --locked gets them")
        cls.printed = third_parties("bill")
        cls.bill = json.loads(cls.printed)
        cls.components = {entry["name"]: entry for entry in cls.bill["components"]}

    def test_the_bill_has_the_binary_and_what_builds_it(self):
        manifest = (ROOT / "Cargo.toml").read_text(encoding="utf-8")
        dependencies = re.search(r"^\[dependencies\]\n(.*?)^\[", manifest, re.MULTILINE | re.DOTALL).group(1)
        named = set(re.findall(r"^([\w-]+) = ", dependencies, re.MULTILINE))
        # Packages are built with the default features: what a cluster needs is not in them.
        of_cluster = re.search(r"^cluster = \[(.*?)\]", manifest, re.MULTILINE | re.DOTALL).group(1)
        named -= set(re.findall(r'"dep:([\w-]+)"', of_cluster))
        self.assertLessEqual(named - {"async-trait"}, {n for n, entry in self.components.items() if entry["scope"] == "required"})
        # Macros run where the binary is built, and tests nowhere else.
        self.assertEqual((self.components["async-trait"]["scope"], self.components["cc"]["scope"]), ("excluded", "excluded"))
        self.assertNotIn("proptest", self.components)
        self.assertEqual(self.bill["metadata"]["timestamp"], "2026-01-01T00:00:00Z")

    def test_each_component_has_a_licence_and_the_sum_of_the_lock_file(self):
        lock = (ROOT / "Cargo.lock").read_text(encoding="utf-8")
        for name, entry in self.components.items():
            with self.subTest(name=name):
                self.assertIn("licenses", entry)
                self.assertIn(f'checksum = "{entry["hashes"][0]["content"]}"', lock)

    def test_the_graph_names_components_alone(self):
        known = {entry["bom-ref"] for entry in [*self.bill["components"], self.bill["metadata"]["component"]]}
        self.assertEqual(len(known), len(self.bill["components"]) + 1)
        self.assertEqual({entry["ref"] for entry in self.bill["dependencies"]}, known)
        self.assertLessEqual({ref for entry in self.bill["dependencies"] for ref in entry["dependsOn"]}, known)

    def test_the_same_lock_file_gives_the_same_bill(self):
        self.assertEqual(third_parties("bill"), self.printed)

    @unittest.skipUnless(CYCLONEDX, "cyclonedx-python-lib is not installed")
    def test_the_bill_is_valid(self):
        from cyclonedx.schema import SchemaVersion
        from cyclonedx.validation.json import JsonStrictValidator

        # One in twenty: comparing each with each other takes the validator half a minute for all.
        few = {**self.bill, "components": self.bill["components"][::20], "dependencies": self.bill["dependencies"][::20]}
        self.assertIsNone(JsonStrictValidator(SchemaVersion.V1_5).validate_str(json.dumps(few)))

    def test_the_notices_have_every_package_of_the_binary_and_texts(self):
        notices = third_parties("notices").decode()
        for name, entry in self.components.items():
            self.assertEqual(f"    {name} " in notices, entry["scope"] == "required", name)
        self.assertIn("Permission is hereby granted, free of charge", notices)
        self.assertIn("END OF TERMS AND CONDITIONS", notices)
        self.assertNotIn(str(Path.home()), notices)

    def test_without_the_gpu_there_is_less(self):
        self.assertIn("wgpu", self.components)
        bill = json.loads(third_parties("bill", "--no-default-features"))
        self.assertNotIn("wgpu", {entry["name"] for entry in bill["components"]})


def linked(symbols, frames, handlers):
    """An ELF file as a linker leaves it, as far as sizes go: symbols (type, global, name, address, bytes), .eh_frame, .gcc_except_table."""
    names, table = b"\0", bytes(24)
    for kind, shared, name, address, size in symbols:
        table += struct.pack("<IBBHQQ", len(names), shared << 4 | kind, 0, 0xFFF1 if kind == 4 else 1, address, size)
        names += name.encode() + b"\0"
    parts = [(".text", 1, 0x1000, bytes(0x400)), (".eh_frame", 1, 0x2000, frames), (".gcc_except_table", 1, 0x3000, handlers)]
    parts += [(".bss", 8, 0x4000, bytes(64)), (".symtab", 2, 0, table), (".strtab", 3, 0, names)]
    titles = b"\0" + b"".join(part[0].encode() + b"\0" for part in parts) + b".shstrtab\0"
    body, headers = b"", bytes(64)
    for name, kind, address, content in [*parts, (".shstrtab", 3, 0, titles)]:
        # .symtab is the fifth section, and its names are the sixth.
        head = (titles.index(name.encode() + b"\0"), kind, 0, address, 64 + len(body), len(content), 6 if kind == 2 else 0, 0, 1, 0)
        headers += struct.pack("<IIQQQQIIQQ", *head)
        body += b"" if kind == 8 else content
    start = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack("<HHIQQQ", 3, 62, 1, 0, 0, 64 + len(body))
    return start + struct.pack("<IHHHHHH", 0, 64, 0, 0, 64, len(parts) + 2, len(parts) + 1) + body + headers


class Sizes(unittest.TestCase):
    def test_code_and_its_tables_count_for_the_crate_that_was_compiled(self):
        size = load("size")
        shared = "_ZN5alloc3vec4grow17h00E"
        symbols = [
            (4, 0, "alpha.0123456789abcde-cgu.00", 0, 0), (2, 0, shared, 0x1000, 100), (2, 0, "hidden", 0x1200, 10),
            (4, 0, "2dndowo11wh0wgfwk2z1styv2", 0, 0), (2, 0, "own", 0x1300, 7),
            (4, 0, "fast.c", 0, 0), (2, 0, "fast", 0x1340, 5),
            # Behind alpha's last and before the program's first hidden function: its name tells, or else the one before.
            (2, 1, "_ZN5curec3run17h01E", 0x1280, 20), (2, 1, "_ZN4core3fmt17h02E", 0x1240, 30),
            # Two names of one function, and data.
            (2, 1, "also_own", 0x1300, 7), (1, 1, "numbers", 0x1100, 1000),
        ]
        cie = struct.pack("<II", 20, 0) + b"\x01zPLR\0" + bytes(10)
        frames = cie
        for function, handler in [(0x1000, 0x3000), (0x1300, 0), (0x1340, 0x3010)]:
            at = 0x2000 + len(frames)
            entry = struct.pack("<IiI", len(frames) + 4, function - (at + 8), 100) + b"\x04"
            entry += struct.pack("<i", handler and handler - (at + 17)) + bytes(3)
            frames += struct.pack("<I", len(entry)) + entry
        crates, kept = size.table(linked(symbols, frames + bytes(4), bytes(0x18)), "curec")
        self.assertEqual(crates, {"alpha": [140, 24 + 0x10], "curec": [27, 24], size.C: [5, 24 + 8]})
        self.assertEqual(kept, {".text": 0x400, ".eh_frame": len(frames) + 4, ".gcc_except_table": 0x18})

    def test_a_file_without_symbols_is_refused(self):
        size = load("size")
        for data, why in [(b"#!/bin/sh\n", "no 64-bit"), (elf(), "no symbols")]:
            with self.assertRaisesRegex(size.Refused, why):
                size.table(data, "curec")

    def test_crates_are_in_the_first_family_that_names_all_of_them(self):
        family = load("size").family
        for name, text in [
            ("datafusion_functions", "DataFusion, sqlparser"), ("arrow_cast", "Arrow, Parquet"), ("polars_arrow", "Polars"),
            ("burn_cubecl", "Burn on GPUs"), ("burn_flex", "Burn on CPUs, autodiff"), ("ringbuffer", "all others"),
        ]:
            self.assertEqual(family(name), text, name)


class Images(unittest.TestCase):
    def test_image_toolchain_and_pods_agree(self):
        image = (PACKAGES / "Dockerfile").read_text(encoding="utf-8")
        toolchain = re.search(r'channel = "([\d.]+)"', (ROOT / "rust-toolchain.toml").read_text(encoding="utf-8")).group(1)
        self.assertIn(f"FROM rust:{toolchain}-slim-", image)
        self.assertIn(f"RUSTUP_TOOLCHAIN={toolchain}", image)
        version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(encoding="utf-8"), re.MULTILINE).group(1)
        self.assertIn(f"ARG VERSION={version}\n", image)
        pods = (ROOT / "jobs/kubernetes/nightly.yaml").read_text(encoding="utf-8")
        user = re.search(r"runAsUser: (\d+)", pods).group(1)
        self.assertIn(f"USER {user}:{user}\n", image)
        self.assertIn(f"WORKDIR {re.search(r'workingDir: (.+)', pods).group(1)}\n", image)

    def test_the_build_gets_what_the_code_includes(self):
        left_out = (PACKAGES / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
        tops = {"Cargo.toml", "Cargo.lock", "build.rs", "src", "schemas", "sql", "jobs", "benches"}
        self.assertEqual(tops & set(left_out), set())


class Releases(unittest.TestCase):
    def test_options_are_checked(self):
        for options, why in [(["--size"], "unknown option"), (["--out"], "wants a value"), (["--binary", "none"], "no program")]:
            done = subprocess.run([ROOT / "ci/release.sh", *options], capture_output=True, text=True)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(why, done.stderr)

    def test_a_full_folder_is_left_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder) / "kept"
            kept.write_text("")
            done = subprocess.run([ROOT / "ci/release.sh", "--out", folder], capture_output=True, text=True)
            self.assertEqual((done.returncode, kept.exists()), (1, True))
            self.assertIn("is not empty", done.stderr)

    @unittest.skipUnless(BINARY and has_sources(), "CUREC_BIN names no binary, or cargo has not the sources of all packages")
    def test_a_binary_becomes_an_archive_and_a_wheel_that_pip_installs(self):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "dist"
            # What CI builds is not optimised for size.
            environment = {**os.environ, "CUREC_MAX_MB": "2000", "CUREC_OFFLINE": "1", "SOURCE_DATE_EPOCH": "1767225600"}
            command = [ROOT / "ci/release.sh", "--binary", BINARY, "--out", out, "--no-image"]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            self.assertEqual(done.returncode, 0, done.stderr)
            sums = [line.split("  ") for line in (out / "SHA256SUMS").read_text().splitlines()]
            self.assertEqual(sorted(name for _, name in sums), sorted(p.name for p in out.iterdir() if p.name != "SHA256SUMS"))
            for digest, name in sums:
                self.assertEqual(hashlib.sha256((out / name).read_bytes()).hexdigest(), digest)
            archive, = out.glob("*.tar.gz")
            with tarfile.open(archive) as files:
                inside = {name.partition("/")[2] for name in files.getnames()}
                owners = {(member.uid, member.gid, member.mtime) for member in files.getmembers()}
            wanted = {"curec", "man/man1/curec.1", "man/man1/curec-run.1", "completions/curec.zsh", "THIRD-PARTY-NOTICES.txt", "LICENSE-MIT"}
            self.assertLessEqual(wanted, inside)
            self.assertEqual(owners, {(0, 0, 1767225600)})

            wheel, = out.glob("*.whl")
            if importlib.util.find_spec("ensurepip") is None:
                self.skipTest("Python has no ensurepip, so no fresh environment has pip")
            venv = Path(folder) / "venv"
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            pip = [venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", wheel]
            subprocess.run(pip, check=True)
            said = subprocess.run([venv / "bin/curec", "--version"], capture_output=True, text=True, check=True)
            self.assertRegex(said.stdout, r"^curec \d+\.\d+\.\d+")


if __name__ == "__main__":
    unittest.main()
