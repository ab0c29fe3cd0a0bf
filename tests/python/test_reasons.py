"""The measures of benches/reasons: what is masked, what counts as a copy, how variety is counted."""

import random
import sys
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches" / "reasons"))

from answer import chosen, ends_well, packed, reason_of  # noqa: E402
from references_data import notes, sentences, tastes, wishes, within, without_encouragement  # noqa: E402
from text_scores import commonest, measured, texts_of  # noqa: E402
from texts import (  # noqa: E402
    bleu4,
    bleu_counts,
    bleu_of,
    copies,
    distinct2,
    first_sentence,
    masked,
    others,
    rarities,
    rouge_l,
    telling,
    titles_of,
)

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

    def test_bleu_of_a_corpus_is_that_of_its_summed_counts(self):
        pairs = [("one two three four nine", "one two three four five"), ("six seven", "six eight")]
        self.assertAlmostEqual(bleu4(pairs), bleu_of([sum(c) for c in zip(*(bleu_counts(*p) for p in pairs))]))
        self.assertEqual(bleu4([]), 0)

    def test_in_a_shuffle_nobody_keeps_the_own_place(self):
        for count in (2, 3, 50):
            order = others(count, random.Random(count))
            self.assertEqual(sorted(order), list(range(count)))
            self.assertTrue(all(n != other for n, other in enumerate(order)))

    def test_rare_words_tell_more_and_a_plural_is_its_singular(self):
        found = rarities(["the wizards of a boat", "a boat", "boats"])
        self.assertEqual(found["boat"], 0)
        self.assertGreater(found["wizard"], 1)
        self.assertEqual(telling("The user would enjoy the books about wizards"), {"wizard"})


class Scores(unittest.TestCase):
    def test_who_says_the_same_of_all_has_no_margin(self):
        told = [f"the user would buy the book because it has number {n} and word{n} in it" for n in range(12)]
        same = measured(["the user would buy the book because it has words in it"] * 12, told, resamples=20)
        self.assertGreater(same["bleu4"], 20)
        self.assertAlmostEqual(same["bleu4_margin"], 0)
        self.assertAlmostEqual(same["rouge_l_margin"], 0)
        own = measured(told, told, resamples=20)
        self.assertAlmostEqual(own["bleu4"], 100)
        low, high = own["bleu4_margin_interval"]
        self.assertTrue(0 < low <= own["bleu4_margin"] <= high + 1e-9)

    def test_the_reason_that_is_nearest_to_the_others_is_found(self):
        reasons = ["a b c d e f", "a b c d e g", "a b c d e h", "one of another kind altogether"]
        self.assertIn(commonest(reasons, random.Random(0)), reasons[:3])

    def test_a_key_of_the_lines_is_an_arm(self):
        self.assertEqual(texts_of("content", [{"content": ["One.", "Two."]}, {"content": []}]), ["One. Two.", ""])

    def test_no_reason_is_nothing_said(self):
        told = ["a tale of two cities and a war", "a song of three boats and a storm"]
        self.assertEqual(measured(["", told[1]], told, resamples=5)["without"], 1)


class Pairs(unittest.TestCase):
    LINE = {
        "subject": "Harbour Lights",
        "liked": ["quiet tales by the sea"],
        "content": ["A stubborn lighthouse keeper shelters a runaway, and storms come."],
        "reason": "The user would buy the book because a lighthouse keeper and storms promise a quiet read.",
    }

    def test_a_summary_becomes_what_a_user_is_after(self):
        summary = "Based on reviews, this user is likely to enjoy books that are funny, and tales of ships. They fear gore."
        self.assertEqual(wishes(summary), ["funny", "tales of ships"])

    def test_a_seeker_is_known_by_what_was_liked(self):
        turns = ["recommender: I like Jaws.", "seeker: I love silly comedies!", "seeker: I hated [Jaws (1975)]"]
        turns.append("seeker: [Big (1988)] was it")
        self.assertEqual(tastes(turns), ["silly comedies", "Big (1988)"])

    def test_encouragement_at_the_end_is_left_out(self):
        turn = "Since you like ships, try [Jaws (1975)].It has a shark. I highly recommend it!"
        self.assertEqual(without_encouragement(turn, "x"), "Since you like ships, try Jaws (1975). It has a shark.")

    def test_sentences_do_not_end_with_initials(self):
        self.assertEqual(sentences("By David S. Goyer. Mr. Big is in it."), ["By David S. Goyer.", "Mr. Big is in it."])
        self.assertEqual(within(["one two", "three four"], 3), ["one two"])
        self.assertEqual(within(["one two three"], 2), ["one two..."])

    def test_notes_are_phrases_of_the_evidence_that_the_reason_holds(self):
        found = notes(self.LINE, {})
        self.assertEqual(found, ["lighthouse keeper", "storms come", "quiet tales"])

    def test_of_answers_that_end_well_the_most_specific_is_taken(self):
        rarity = rarities([" ".join(self.LINE["content"]), "a boat", "a dog"])
        reasons = [
            None,
            "The user may like it because it is a good one.",
            "The user may like it for the lighthouse keeper and storms.",
            "The user may like it for the lighthouse keeper, the runaway and",
        ]
        best, specificity, ended = chosen(self.LINE, reasons, rarity)
        self.assertEqual((best, ended), (reasons[2], 2))
        self.assertGreater(specificity, 0)
        self.assertEqual(chosen(self.LINE, [None], rarity), (None, None, 0))
        self.assertFalse(ends_well("so it is so it is so it is so it is."))

    def test_the_reason_is_read_out_of_an_answer_and_the_reference_is_not_shown(self):
        self.assertEqual(reason_of("<think>", "a; b</think><reason>It is so.</reason>"), "It is so.")
        self.assertEqual(reason_of("<think>", "a</think><reason>Yes.</reason><verdict>yes</verdict>"), "Yes.")
        self.assertIsNone(reason_of("<think>", "a</think><reason>It is"))
        self.assertEqual(reason_of("They like it because", "it is so."), "They like it because it is so.")
        self.assertNotIn("promise", packed(self.LINE))


if __name__ == "__main__":
    unittest.main()
