#!/usr/bin/env python3
"""Instruction counts of workloads against those that are recorded; ci/instructions.sh runs the workloads.

    ci/instructions.py COUNTS FOLDER            # exit 1 with a line for each count that is off
    ci/instructions.py --some COUNTS FOLDER     # the same, where not all workloads were run
    ci/instructions.py --record COUNTS FOLDER   # writes COUNTS

COUNTS is a table of tabs, `workload` and `instructions`; FOLDER holds `<workload>.out`, written by callgrind with neither strings nor
positions compressed.

A count is the sum over the functions of the program itself. Those of the C library (memory, copies, logarithms) are left out: which of
its versions is there, and which of its variants it takes on a processor, says nothing of the kernels.

More than a tenth above what is recorded is a regression. More than a tenth below is good, and still exit 1: as long as the table
has the old count, all that was won could be lost again unseen.
"""

import sys
from pathlib import Path

PROGRAM = "instructions"
HEADER = "workload\tinstructions"
# In percent of what is recorded.
TOLERANCE = 10
ANEW = "ci/instructions.sh --record writes the table anew"


def own_instructions(text):
    """What callgrind counted in functions of the program, calls not included."""
    total, is_own, is_inclusive = 0, False, False
    for line in text.splitlines():
        if line.startswith("ob="):
            is_own = Path(line[3:]).name == PROGRAM
        elif line.startswith("calls="):
            # The next line has the cost of the callee, which has lines of its own.
            is_inclusive = True
        elif line[:1].isdigit():
            if is_own and not is_inclusive:
                total += int(line.split()[1])
            is_inclusive = False
    return total


def read_counts(text):
    """The recorded table as {workload: instructions}."""
    header, *lines = text.splitlines()
    if header != HEADER:
        raise SystemExit(f"instructions: the table must begin with {HEADER!r}")
    return {name: int(count) for name, count in (line.split("\t") for line in lines)}


def complaint(name, recorded, counted):
    """What is wrong with a count, or None. `recorded` and `counted` are None where there is none."""
    if counted is None:
        return f"{name} is recorded and was not run: {ANEW}"
    if counted == 0:
        return f"{name}: nothing was counted; is curec_counted still a function of the program?"
    if recorded is None:
        return f"{name} is not recorded: {ANEW}"
    change = 100 * (counted - recorded) / recorded
    if change > TOLERANCE:
        return (f"{name}: {counted:,} instructions, {change:.1f} % more than the {recorded:,} that are recorded. Undo what made it "
                f"slower; where that is meant, {ANEW}, and the commit says why")
    if change < -TOLERANCE:
        return f"{name}: {counted:,} instructions, {-change:.1f} % fewer than the {recorded:,} that are recorded. To keep it so, {ANEW}"
    return None


def main(arguments):
    options = [a for a in arguments if a.startswith("--")]
    table, folder = (Path(a) for a in arguments if not a.startswith("--"))
    counted = {path.stem: own_instructions(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.out"))}
    recorded = read_counts(table.read_text(encoding="utf-8")) if table.exists() else {}
    for name in sorted(counted):
        change = f"{100 * (counted[name] / recorded[name] - 1):+8.2f} %" if recorded.get(name) else "       new"
        print(f"{name:28} {counted[name]:12,} {change}")
    if "--record" in options:
        if 0 in counted.values():
            print("instructions: nothing was counted of some workloads; the table stays as it is")
            return 1
        table.write_text("\n".join([HEADER, *(f"{name}\t{counted[name]}" for name in sorted(counted))]) + "\n", encoding="utf-8")
        return 0
    names = sorted(counted if "--some" in options else counted.keys() | recorded.keys())
    found = [c for name in names if (c := complaint(name, recorded.get(name), counted.get(name)))]
    for line in found:
        print(f"instructions: {line}")
    print(f"instructions: {len(names)} workloads, {len(found)} off by more than {TOLERANCE} %")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
