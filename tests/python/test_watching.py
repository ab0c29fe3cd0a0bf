"""The metrics of a run: docs/watching.md explains each of them, and jobs/alerts.yml asks for none that is not there."""

import re
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = r"curec_(?:last_[a-z_]+)"


def made():
    """The names that the source gives to metrics."""
    files = ("src/watch/run.rs", "src/watch/places.rs", "src/night/watched.rs", "src/weekly/watched.rs")
    texts = [(ROOT / file).read_text(encoding="utf-8") for file in files]
    return {name for text in texts for name in re.findall(rf'"({NAME})"', text)}


class Metrics(unittest.TestCase):
    def test_there_are_some(self):
        self.assertIn("curec_last_success_timestamp_seconds", made())
        self.assertGreater(len(made()), 20)

    def test_the_page_explains_each_and_no_other(self):
        page = (ROOT / "docs/watching.md").read_text(encoding="utf-8")
        rows = re.findall(rf"^\| `({NAME})` \|", page, flags=re.MULTILINE)
        self.assertEqual(len(rows), len(set(rows)))
        self.assertEqual(set(rows), made())

    def test_alerts_ask_for_metrics_that_are_there(self):
        asked = set(re.findall(NAME, (ROOT / "jobs/alerts.yml").read_text(encoding="utf-8")))
        self.assertTrue(asked)
        self.assertEqual(asked - made(), set())

    def test_the_page_names_every_alert_that_it_speaks_of(self):
        rules = set(re.findall(r"alert: (\w+)", (ROOT / "jobs/alerts.yml").read_text(encoding="utf-8")))
        page = (ROOT / "docs/watching.md").read_text(encoding="utf-8")
        self.assertEqual(set(re.findall(r"`(Curec\w+)`", page)) - rules, set())


if __name__ == "__main__":
    unittest.main()
