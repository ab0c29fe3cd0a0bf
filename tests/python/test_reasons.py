"""The measures of benches/reasons: what is masked, what counts as a copy, how variety is counted."""

import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches" / "reasons"))

from texts import bleu4, copies, distinct2, first_sentence, masked, rouge_l, titles_of  # noqa: E402

FILM = {
    "title": "Usual Suspects, The (1995)",
    "description": "A sole survivor tells of the twisty events leading up to a horrific gun battle on a boat.",
    "people": ["Bryan Singer", "Kevin Spacey"],
}


class Texts(unittest.TestCase):
    def test_a_title_is_masked_as_it_is_written_and_as_it_is_spoken(self):
        self.assertEqual(titles_of("Usual Suspects, The (1995)")[0], "Usual Suspects, The (1995)")
        self.assertIn("The Usual Suspects", titles_of("Usual Suspects, The (1995)"))
        said = "In Usual Suspects, The (1995), or the usual suspects, Singer lets Kevin Spacey lie."
        self.assertEqual(masked(said, FILM), "In , or , lets lie.")

    def test_a_name_within_a_word_stays(self):
        self.assertEqual(masked("Singers sing", FILM), "Singers sing")

    def test_more_than_eight_words_in_a_row_are_a_copy(self):
        eight = "People like twisty events leading up to a horrific gun because of the boat."
        self.assertFalse(copies(eight, FILM))
        self.assertTrue(copies(eight.replace("gun because of", "gun battle on"), FILM))

    def test_a_title_within_a_run_ends_it(self):
        broken = "the twisty events leading up Usual Suspects, The (1995) to a horrific gun battle"
        self.assertFalse(copies(broken, FILM))

    def test_variety_is_counted_at_equal_length(self):
        self.assertEqual(distinct2(["a b c", "a b d"]), 0.75)
        long = " ".join(str(n) for n in range(40))
        self.assertEqual(distinct2([long, long]), 0.5)
        self.assertEqual(distinct2([]), 0)

    def test_the_first_sentence_ends_at_its_mark(self):
        self.assertEqual(first_sentence("One. Two."), "One.")
        self.assertEqual(first_sentence(None), "")

    def test_bleu_and_rouge_as_reckoned_by_hand(self):
        same = "a quiet drama of two lonely neighbours"
        self.assertAlmostEqual(bleu4([(same, same)]), 100)
        self.assertEqual(bleu4([("nothing of it here", same)]), 0)
        # 4 of 5 words, 3 of 4 pairs, 2 of 3 and 1 of 2 longer runs, no penalty for length.
        said, told = "one two three four nine", "one two three four five"
        self.assertAlmostEqual(bleu4([(said, told)]), 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)
        # Half as long: the penalty is exp(1 - 2).
        self.assertAlmostEqual(bleu4([("a b c d", "a b c d e f g h")]), 100 * 2.718281828459045**-1)
        self.assertAlmostEqual(rouge_l("a b c d", "a c d e"), 0.75)
        self.assertEqual(rouge_l("", "a"), 0)


if __name__ == "__main__":
    unittest.main()
