#!/usr/bin/env python3
"""Compares logits with those that lie beside a model of fixtures/architectures or fixtures/configurations.

    same_logits.py tokens MODEL                     the token ids they are of, as a JSON array
    same_logits.py compare MODEL LOGITS ALLOWED     fails if more than one row of 20 is off by more than ALLOWED of the largest logit:
                                                    a router that prefers an expert by less than the roundings decides otherwise
"""
import array
import json
import pathlib
import sys


def floats(path):
    values = array.array("f")
    values.frombytes(pathlib.Path(path).read_bytes())
    return values


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "tokens":
        print(json.dumps(expected(sys.argv[2])))
        return
    if len(sys.argv) != 5 or sys.argv[1] != "compare":
        raise SystemExit(__doc__)
    model, allowed = sys.argv[2], float(sys.argv[4])
    got, want = floats(sys.argv[3]), floats(pathlib.Path(model) / "expected_logits.f32")
    rows = len(expected(model))
    if len(got) != len(want):
        raise SystemExit(f"{model}: {len(got)} logits, not {len(want)}")
    largest, columns = max(map(abs, want)), len(want) // rows
    off = []
    for row in range(rows):
        pairs = zip(got[row * columns:(row + 1) * columns], want[row * columns:(row + 1) * columns])
        off.append(max((abs(g - w) if g == g else float("inf")) for g, w in pairs) / largest)
    beyond = sum(x > allowed for x in off)
    print(f"{pathlib.Path(model).name}: {sorted(off)[rows // 2]:.1e} of the largest logit in the middle row, {max(off):.1e} at most, "
          f"{beyond} of {rows} rows beyond {allowed}")
    sys.exit(beyond * 20 > rows)


def expected(model):
    return json.loads((pathlib.Path(model) / "expected.json").read_text())["tokens"]


if __name__ == "__main__":
    main()
