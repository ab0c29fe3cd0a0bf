"""ci/gpu.sh without a GPU: a program that only prints what it is asked takes the place of benches/gpu.rs. Which steps are run, what is
left out and why, how a packed folder is put together again, and the page that ci/gpu.py makes of the figures."""

import contextlib
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import tarfile
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

DEVICE = {"figure": "device", "device": "wgpu", "name": "A card", "is_software": False, "computes_in": ["f32", "f16"],
          "copies_gb_per_s": 1000.0}
PARITY = {"figure": "parity", "model": "SmolLM2-135M", "case": "chat", "value_bytes": 4.0, "largest": 0.00123, "limit": 0.002,
          "agreed": 32, "of": 32, "ok": True}
SPEED = {"figure": "speed", "what": "decoder", "model": "135M", "rows": 32, "prompt": 128, "new": 64, "value_bytes": 4.0,
         "prefill_tokens_per_s": 50000.0, "decode_tokens_per_s": 3000.0, "new_tokens_per_s": 2400.0, "prefilled": 4096,
         "decode_steps": 63, "is_warm": True, "cold_s": 9.0, "load_s": 1.0, "reads_gb_per_s": 250.0, "device_peak_mb": 1234,
         "card_used_mb": None, "process_peak_mb": 900}
PEER = {"engine": "transformers bf16", "model": "135M", "device": "cuda", "rows": 32, "rep": 0, "new_tok_s": 700.0, "device_peak_mb": 2000}

# Prints a figure for each request, with the request; what FAIL names fails. Of a model it tells the size.
PROGRAM = """#!/bin/sh
case "$*" in *"$FAIL"*) echo "no such thing" >&2; printf '{"figure":"spe'; exit 3 ;; esac
case "$1" in
device) echo '{"figure":"device","device":"wgpu","name":"Nothing","is_software":true,"computes_in":["f32"],"copies_gb_per_s":10.0}' ;;
parity)
    size=0
    if [ -n "$2" ]; then size=$(wc -c <"$2"); test -f "$3/smollm2_goldens.json" || exit 4; fi
    echo "{\\"figure\\":\\"parity\\",\\"model\\":\\"of $size bytes\\",\\"case\\":\\"chat\\",\\"value_bytes\\":4.0,\\"largest\\":0.001," \\
        "\\"limit\\":0.002,\\"agreed\\":5,\\"of\\":5,\\"ok\\":true}" ;;
speed)
    echo "{\\"figure\\":\\"speed\\",\\"what\\":\\"decoder\\",\\"model\\":\\"$2\\",\\"rows\\":$4,\\"prompt\\":$5,\\"new\\":$6," \\
        "\\"new_tokens_per_s\\":7.0,\\"reads_gb_per_s\\":1.0}" ;;
esac
"""


def gpu():
    """ci/gpu.py."""
    spec = importlib.util.spec_from_file_location("gpu", ROOT / "ci/gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Page(unittest.TestCase):
    def document(self, *lines):
        return gpu().joined(list(lines))

    def test_a_line_that_a_killed_process_has_begun_is_left_out(self):
        self.assertEqual(gpu().read('{"figure":"device"}\n{"figure":"spe\n\n7\n{"engine":"x"}\n'), [{"figure": "device"}, {"engine": "x"}])

    def test_the_roofline_is_what_is_read_of_what_the_memory_moves(self):
        [line] = self.document(DEVICE, SPEED)["speed"]
        self.assertEqual(line["roofline_share"], 0.25)
        [line] = self.document(SPEED)["speed"]
        self.assertNotIn("roofline_share", line)

    def test_the_peer_is_the_best_repetition_of_the_same_work_on_the_same_kind_of_device(self):
        others = [{**PEER, "rep": 1, "new_tok_s": 800.0}, {**PEER, "rep": 2, "new_tok_s": 750.0}, {**PEER, "rows": 1, "new_tok_s": 9.0},
                  {**PEER, "model": "1.5B", "new_tok_s": 9999.0}, {**PEER, "device": "cpu", "new_tok_s": 9999.0}]
        [line] = self.document(DEVICE, SPEED, PEER, *others)["speed"]
        self.assertEqual((line["peer"]["new_tokens_per_s"], line["ratio"]), (800.0, 3.0))
        software = {**DEVICE, "is_software": True}
        [line] = self.document(software, SPEED, PEER)["speed"]
        self.assertNotIn("peer", line)
        [line] = self.document(software, SPEED, {**PEER, "device": "cpu"})["speed"]
        self.assertIn("ratio", line)

    def test_what_fails(self):
        failures = gpu().failures
        self.assertEqual(failures(self.document(DEVICE, PARITY, SPEED)), [])
        self.assertEqual(len(failures(self.document(DEVICE, SPEED))), 1)
        off = {**PARITY, "largest": 0.5, "ok": False}
        self.assertIn("0.5 from transformers, 0.002 are allowed", failures(self.document(DEVICE, PARITY, off))[0])
        self.assertIn("not finite", failures(self.document(DEVICE, {**PARITY, "largest": None, "ok": False}))[0])
        left = {"figure": "skipped", "step": "parity of SmolLM2-135M", "why": "not done after 9 s", "failed": True}
        self.assertEqual(failures(self.document(DEVICE, PARITY, left)), ["parity of SmolLM2-135M: not done after 9 s"])
        self.assertEqual(failures(self.document(DEVICE, PARITY, {**left, "failed": False})), [])
        self.assertEqual(failures(self.document(DEVICE, PARITY, {**left, "step": "1.5B x 512"})), [])

    def test_the_page(self):
        engine = {key: value for key, value in SPEED.items() if key in ("figure", "model", "rows", "prompt", "new", "new_tokens_per_s")}
        document = self.document(DEVICE, PARITY, {**PARITY, "case": "all in one step", "agreed": None, "of": None}, SPEED,
                                 {**SPEED, "rows": 512, "is_warm": False}, {**engine, "what": "engine"}, PEER,
                                 {"figure": "skipped", "step": "1.5B x 512", "why": "not done after 80 s", "failed": True})
        page = gpu().page(document, "abc1234")
        work = "32 x (128 + 64) | 4 | 50,000 | 3,000 | 2,400 | 25 % | 1,234 / - / 900 | 700 (bf16, 2,000 MB) | 3.43"
        for text in ["# A card, abc1234", "computes in f32, f16", "1,000 GB/s", f"| 135M | decoder | {work} |", "2,400 (cold)",
                     "| SmolLM2-135M | chat | 4 | 0.00123 | 0.002 | 32 of 32 |",
                     "| SmolLM2-135M | all in one step | 4 | 0.00123 | 0.002 | - |",
                     "| 135M | engine | 32 x (128 + 64) | - | - | - | 2,400 | - |", "* 1.5B x 512: not done after 80 s"]:
            self.assertIn(text, page)
        self.assertNotIn("no graphics card", page)
        tables = [line.count("|") for line in page.splitlines() if line.startswith("| 135M") or line.startswith("| model | what")]
        self.assertEqual(len(set(tables)), 1)

    def test_software_is_said_to_be_software_also_where_nothing_was_told(self):
        for lines in [[{**DEVICE, "is_software": True}, PARITY], [PARITY], []]:
            self.assertIn("This is no graphics card", gpu().page(self.document(*lines), "abc"))

    def test_the_document_and_the_page_are_written_and_a_failure_is_the_exit_code(self):
        with tempfile.TemporaryDirectory() as folder:
            lines = Path(folder) / "lines"
            for parity, code in [(PARITY, 0), ({**PARITY, "ok": False}, 1)]:
                lines.write_text("".join(json.dumps(line) + "\n" for line in [DEVICE, parity]), encoding="utf-8")
                with contextlib.redirect_stderr(io.StringIO()):
                    self.assertEqual(gpu().main(lines, "abc", folder), code)
                self.assertEqual(json.loads((Path(folder) / "gpu.json").read_text(encoding="utf-8"))["commit"], "abc")
                self.assertEqual("**Failed:**" in (Path(folder) / "gpu.md").read_text(encoding="utf-8"), code == 1)


class Run(unittest.TestCase):
    def setUp(self):
        self.place = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.folder, self.out = self.place / "packed", self.place / "out"
        self.folder.mkdir()
        # No transformers, whatever Python here has.
        (self.place / "transformers.py").write_text("raise ImportError\n", encoding="utf-8")

    def pack(self, model=b""):
        """What `ci/gpu.sh pack` makes, of the program above and a model in two parts."""
        files = {"gpu": PROGRAM.encode(), "commit": b"abc1234\n"}
        if model:
            files |= {"smollm2_goldens.json": b"{}", "model.sha256": f"{hashlib.sha256(model).hexdigest()}  model.gguf\n".encode()}
            half = len(model) // 2
            (self.folder / "model.00").write_bytes(model[:half])
            (self.folder / "model.01").write_bytes(model[half:])
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755
                tar.addfile(entry, io.BytesIO(content))
        cut = len(packed.getvalue()) // 2
        (self.folder / "program.00").write_bytes(packed.getvalue()[:cut])
        (self.folder / "program.01").write_bytes(packed.getvalue()[cut:])

    def run_script(self, *arguments, fail="nothing fails", seconds="570", **more):
        environment = {**os.environ, "OUT": str(self.out), "FAIL": fail, "CUREC_SECONDS": seconds, "PYTHONPATH": str(self.place), **more}
        return subprocess.run([ROOT / "ci/gpu.sh", *arguments], env=environment, capture_output=True, text=True, timeout=120)

    def figures(self):
        return json.loads((self.out / "gpu.json").read_text(encoding="utf-8"))

    def left_out(self):
        return {line["step"]: line["why"] for line in self.figures()["skipped"]}

    def test_all_steps_with_the_model_put_together(self):
        self.pack(model=bytes(1001))
        done = self.run_script("run", str(self.folder))
        self.assertEqual(done.returncode, 0, done.stderr)
        figures = self.figures()
        self.assertEqual(figures["commit"], "abc1234")
        self.assertEqual([line["model"] for line in figures["parity"]], ["of 0 bytes", "of 1001 bytes"])
        self.assertEqual([(line["model"], line["rows"]) for line in figures["speed"]],
                         [(model, rows) for model in ("135M", "1.5B") for rows in (1, 32, 128, 512)])
        self.assertEqual({line["roofline_share"] for line in figures["speed"]}, {0.1})
        self.assertEqual(list(self.left_out()), ["transformers"])
        self.assertIn((self.out / "gpu.md").read_text(encoding="utf-8"), done.stdout)

    def test_what_is_packed_runs(self):
        model, goldens = self.place / "home/models/smollm2", self.place / "shared/goldens"
        for folder in (model, goldens, self.place / "bin"):
            folder.mkdir(parents=True)
        (model / "SmolLM2-135M-Instruct.Q4_1.gguf").write_bytes(os.urandom(1_500_000))
        for name in ("smollm2_goldens.json", "smollm2_logits.safetensors"):
            (goldens / name).write_text("{}", encoding="utf-8")
        # A cargo that has built other programs, too.
        program, cargo = self.place / "gpu-0123", self.place / "bin/cargo"
        program.write_text(PROGRAM, encoding="utf-8")
        built = [{"target": {"name": "serde"}}, {"target": {"name": "gpu"}, "executable": str(program)}]
        cargo.write_text("#!/bin/sh\n" + "".join(f"echo '{json.dumps(line)}'\n" for line in built), encoding="utf-8")
        for path in (program, cargo):
            path.chmod(0o755)
        # What an earlier, longer model has left there is no part of this one.
        (self.folder / "model.02").touch()
        packed = self.run_script("pack", str(self.folder), PATH=f"{cargo.parent}:{os.environ['PATH']}", CUREC_PART_MB="1",
                                 CUREC_HOME=str(self.place / "home"), CUREC_SHARED=str(self.place / "shared"))
        self.assertEqual(packed.returncode, 0, packed.stderr)
        self.assertEqual(sorted(path.name for path in self.folder.iterdir()), ["model.00", "model.01", "program.00"])
        self.assertLessEqual(max(path.stat().st_size for path in self.folder.iterdir()), 1 << 20)
        done = self.run_script("run", str(self.folder))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual([line["model"] for line in self.figures()["parity"]], ["of 0 bytes", "of 1500000 bytes"])

    def test_without_the_model_its_shape_is_measured(self):
        self.pack()
        self.assertEqual(self.run_script("run", str(self.folder)).returncode, 0)
        self.assertEqual(len(self.figures()["speed"]), 8)
        self.assertEqual(self.left_out()["parity of SmolLM2-135M"], "the model is not here")

    def test_a_step_that_would_overrun_the_time_is_left_out(self):
        self.pack()
        done = self.run_script("run", "--tiny", str(self.folder), seconds="100")
        # Parity is given 120 seconds, and without it the run has failed.
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(self.left_out()["parity of tiny models"], r"^it may take 120 s, and \d+ of 100 s are left$")
        self.assertEqual(len(self.figures()["speed"]), 4)

    def test_a_step_that_fails_does_not_end_the_run(self):
        self.pack()
        done = self.run_script("run", "--tiny", str(self.folder), fail="tiny-llama.gguf 4 ")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.left_out()["tiny-llama x 4"], "failed with exit code 3, gpu.log says why")
        self.assertEqual(len(self.figures()["speed"]), 3)
        self.assertIn("no such thing", (self.out / "gpu.log").read_text(encoding="utf-8"))

    def test_parity_that_fails_is_the_exit_code(self):
        self.pack(model=bytes(10))
        self.assertEqual(self.run_script("run", str(self.folder), fail="model.gguf").returncode, 1)

    def test_a_folder_that_lacks_a_part_is_refused(self):
        for part in ("program.00", "program.01", "model.00", "model.01"):
            with self.subTest(part=part):
                self.pack(model=bytes(range(100)))
                (self.folder / part).unlink()
                done = self.run_script("run", str(self.folder))
                self.assertEqual(done.returncode, 1)
                self.assertIn(f"gpu: {self.folder} ", done.stderr.splitlines()[-1])
                self.assertFalse(self.out.exists())


if __name__ == "__main__":
    unittest.main()
