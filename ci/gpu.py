#!/usr/bin/env python3
"""The figures of ci/gpu.sh as a page and one JSON document.

    ci/gpu.py LINES COMMIT FOLDER     # LINES: a JSON object a line; writes FOLDER/gpu.json and FOLDER/gpu.md

Exit code 1 where a model is further from transformers than it may be, or where none was compared. Knows what benches/gpu.rs and
benches/peers/hf_generate.py print. Nothing here computes on a device, and nothing but Python is needed.
"""

import json
import sys
from pathlib import Path


def read(text):
    """The objects among the lines; a line that is none, such as one that a killed process has begun, is left out."""
    found = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def joined(lines):
    """The document: `device`, `parity`, `speed` (with the roofline's share and the peer) and `skipped`."""
    of = {kind: [line for line in lines if line.get("figure") == kind] for kind in ("device", "parity", "speed", "skipped")}
    device = of["device"][0] if of["device"] else {}
    peers = {}
    for line in lines:
        if str(line.get("engine", "")).startswith("transformers"):
            key = (line.get("model"), line.get("rows"), line.get("device"))
            if key not in peers or line["new_tok_s"] > peers[key]["new_tok_s"]:
                peers[key] = line
    speed = []
    for line in of["speed"]:
        line = dict(line)
        copies, reads = device.get("copies_gb_per_s"), line.get("reads_gb_per_s")
        if copies and reads:
            line["roofline_share"] = round(reads / copies, 3)
        for (model, rows, where), peer in peers.items():
            # On the processor it would be no peer of a card.
            same = str(where).startswith("cuda") != device.get("is_software", True)
            if (model, rows) == (line["model"], line["rows"]) and same and line.get("new_tokens_per_s"):
                line["peer"] = {"engine": peer["engine"], "device": where, "new_tokens_per_s": peer["new_tok_s"],
                                "device_peak_mb": peer.get("device_peak_mb")}
                line["ratio"] = round(line["new_tokens_per_s"] / peer["new_tok_s"], 2)
        speed.append(line)
    return {"device": device, "parity": of["parity"], "speed": speed, "skipped": of["skipped"]}


def failures(document):
    """Why the run is no success, one line a reason."""
    if not document["parity"]:
        return ["no model was compared with transformers"]
    wrong = [f"{line['model']}, {line['case']}: {away(line)} from transformers, {number(line['limit'])} are allowed; greedy tokens "
             f"that agree: {agreement(line)}" for line in document["parity"] if not line["ok"]]
    # Speed may be unknown where a card is too small or slow; parity may not.
    return wrong + [f"{line['step']}: {line['why']}" for line in document["skipped"]
                    if line.get("failed") and line["step"].startswith("parity")]


def away(line):
    """The largest difference of a logit; benches/gpu.rs writes null where one is no number."""
    return "not finite" if line["largest"] is None else number(line["largest"])


def agreement(line):
    return "-" if line["of"] is None else f"{line['agreed']} of {line['of']}"


def number(value):
    """A figure as people read it: three digits that count, thousands apart."""
    if value is None:
        return "-"
    if isinstance(value, (int, float)) and abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def rows(head, lines):
    """A table of Markdown."""
    cells = [head, ["---"] * len(head), *lines]
    return [f"| {' | '.join(line)} |" for line in cells]


def page(document, commit):
    """The page."""
    device = document["device"]
    out = [f"# {device.get('name', 'An unknown device')}, {commit}", ""]
    if device:
        out.append(f"Device `{device['device']}`; computes in {', '.join(device['computes_in'])}; its memory moves "
                   f"{number(device['copies_gb_per_s'])} GB/s (measured: reads and writes of a large tensor).")
    if device.get("is_software", True):
        out += ["", "**This is no graphics card but software on the processor, or what it is was not told: the figures say that the "
                "steps work, and nothing of a GPU's speed.**"]
    wrong = failures(document)
    if wrong:
        out += ["", "**Failed:**", "", *(f"* {line}" for line in wrong)]

    out += ["", "## Parity with transformers", ""]
    out += rows(["model", "case", "bytes a value", "largest difference", "allowed", "greedy tokens that agree"],
                [[line["model"], line["case"], number(line["value_bytes"]), away(line), number(line["limit"]), agreement(line)]
                 for line in document["parity"]])
    out += ["", "## Speed and memory", "",
            "Tokens per second over all rows. `bytes a value`: what weights and cache take on the device; 4 is f32, 2 is f16 or bf16. "
            "`roofline`: what a decoding step must read at least (weights once, the cache), per second, as a share of what the memory "
            "moves. `memory`: what the device's allocator has held at most / what nvidia-smi says is used / the process on the host, "
            "in MB.", ""]
    table = []
    for line in document["speed"]:
        peer = line.get("peer", {})
        table.append([
            line["model"], line["what"], f"{line['rows']} x ({line['prompt']} + {line['new']})", number(line.get("value_bytes")),
            number(line.get("prefill_tokens_per_s")), number(line.get("decode_tokens_per_s")),
            number(line["new_tokens_per_s"]) + ("" if line.get("is_warm", True) else " (cold)"),
            f"{100 * line['roofline_share']:.0f} %" if "roofline_share" in line else "-",
            " / ".join(number(line.get(key)) for key in ("device_peak_mb", "card_used_mb", "process_peak_mb")),
            f"{number(peer['new_tokens_per_s'])} ({peer['engine'].split()[-1]}, {number(peer['device_peak_mb'])} MB)"
            if peer else "-",
            number(line.get("ratio")),
        ])
    out += rows(["model", "what", "rows x (prompt + new)", "bytes a value", "prefill", "decode", "new tokens", "roofline", "memory",
                 "transformers, static batch: new tokens", "ratio"], table)
    if document["skipped"]:
        out += ["", "## Left out", "", *(f"* {line['step']}: {line['why']}" for line in document["skipped"])]
    return "\n".join(out) + "\n"


def main(lines, commit, folder):
    document = joined(read(Path(lines).read_text(encoding="utf-8", errors="replace")))
    folder = Path(folder)
    (folder / "gpu.json").write_text(json.dumps({"commit": commit, **document}, indent=1) + "\n", encoding="utf-8")
    (folder / "gpu.md").write_text(page(document, commit), encoding="utf-8")
    for line in failures(document):
        print(f"gpu: {line}", file=sys.stderr)
    return 1 if failures(document) else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
