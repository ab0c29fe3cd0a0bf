"""What curec writes, loaded by transformers and peft: adapters in PEFT's format and merged Hugging Face directories.

    CUREC_ADAPTERS=<folder> python tests/python/test_adapter.py

tests/library/adapter.rs sets CUREC_ADAPTERS when CUREC_PEFT_PYTHON names a Python with torch, transformers and peft. Each
folder in it holds `merged/`, `adapter/` and `expected.json`: {base, ids, logits_last, text, tokens} by curec. Without it
the adapters of tests/fixtures/adapters are loaded, which PEFT wrote itself.
"""

import json
import os
import unittest
from pathlib import Path

try:
    import torch
    from peft import PeftConfig, PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as e:
    missing = e.name
else:
    missing = None

TOLERANCE = 2e-3
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def logits(model, ids):
    with torch.no_grad():
        return model.eval()(input_ids=torch.tensor([ids])).logits[0, -1]


@unittest.skipIf(missing, f"{missing} is not installed")
class Adapter(unittest.TestCase):
    def near(self, got, want, what):
        worst = (got - torch.tensor(want)).abs().max().item()
        self.assertLess(worst, TOLERANCE, what)

    def base(self, path):
        return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager")

    def test_fixtures_are_what_peft_makes_of_them(self):
        for folder in sorted((FIXTURES / "adapters").iterdir()):
            expected = json.loads((folder / "expected.json").read_text())
            model = PeftModel.from_pretrained(self.base(FIXTURES / "models" / folder.name), folder)
            for prompt in expected["prompts"]:
                self.near(logits(model, prompt["ids"]), prompt["logits_last"], folder.name)

    @unittest.skipUnless(os.environ.get("CUREC_ADAPTERS"), "CUREC_ADAPTERS names no folder that curec has written")
    def test_what_curec_writes(self):
        folders = [f for f in sorted(Path(os.environ["CUREC_ADAPTERS"]).iterdir()) if (f / "expected.json").exists()]
        self.assertGreaterEqual(len(folders), 3)
        for folder in folders:
            expected = json.loads((folder / "expected.json").read_text())
            merged = self.base(folder / "merged")
            self.near(logits(merged, expected["ids"]), expected["logits_last"], f"{folder.name}, merged")
            config = PeftConfig.from_pretrained(folder / "adapter")
            self.assertEqual((config.peft_type, config.task_type, config.inference_mode), ("LORA", "CAUSAL_LM", True))
            beside = PeftModel.from_pretrained(self.base(expected["base"]), folder / "adapter")
            self.near(logits(beside, expected["ids"]), expected["logits_last"], f"{folder.name}, adapter")
            tokenizer = AutoTokenizer.from_pretrained(folder / "merged")
            tokens = tokenizer(expected["text"], add_special_tokens=False)["input_ids"]
            self.assertEqual(tokens, expected["tokens"], folder.name)
            self.assertEqual(tokenizer("<|im_start|>", add_special_tokens=False)["input_ids"], [1], folder.name)


if __name__ == "__main__":
    unittest.main()
