#!/usr/bin/env python3
"""What the embedded machine code of products must cost at least: instructions counted, nothing measured.

    roofline.py            for Hopper (sm_90), both of DEVICES
    roofline.py sm_80      the instructions of another image (the devices' figures stay Hopper's)

The embedded images (../src/cuda/images, made by build.py) are taken apart with nvdisasm (from PyPI, put below target/). A warp's
instructions are counted before the loop over columns, in one turn of it, and after it, each under the unit that executes it. Of both
sides of a branch within these every instruction counts, as a warp that diverges executes both. From that, for a multiprocessor:

    issue     4 instructions a cycle
    alu       logic, shifts, integer sums, comparisons, permutations, I2FP: 2 a cycle (64 lanes)
    heavy     integer products, dp4a, half precision: 2 a cycle
    float     f32: 4 a cycle, less what is heavy
    special   POPC, conversions other than I2FP: half an instruction a cycle
    memory    loads, stores, shuffles: 1 a cycle; a 16-byte load takes 4

and from the bytes of weights that a turn covers, how much of the memory's bandwidth is the most that each leaves: below 100% it, not
memory, is the bound. For products with many tokens it is the share of the tensor cores' dense f16 rate (2048 products a cycle, twice that in 8-bit
integers), with shared memory's 128 bytes a cycle as a further unit; that no two addresses share a bank is by calculation, in tiles.cuh.
Latency, caches, launches, tails of grids and what units do to each other are not in it.
Sources: CUDA C++ Programming Guide, "Arithmetic Instructions"; Nsight Compute, "Pipelines"; data sheets of the devices.
"""

import collections
import importlib.util
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
IMAGES = HERE.parent / "src/cuda/images"
TOOLS = HERE.parent.parent / "target/cuda-disassembler"
WHEEL = "nvidia-cuda-nvdisasm==13.5.37"

# Name: bytes a second of memory, multiprocessors, cycles a second (what they run at under load is not known here).
DEVICES = {"H200": (4.8e12, 132, 1.9e9), "H100": (3.35e12, 132, 1.9e9)}

# Formats: weights and bytes of a block. Those on top are what the goals name.
BLOCKS = {
    "Q4_K": (256, 144), "Q8_0": (32, 34), "Q4_0": (32, 18), "Q6_K": (256, 210), "Q5_K": (256, 176), "IQ4_XS": (256, 136),
    "F16": (1, 2), "BF16": (1, 2), "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24),
    "IQ4_NL": (32, 18), "MXFP4": (32, 17), "NVFP4": (64, 36), "IQ3_S": (256, 110), "IQ3_XXS": (256, 98), "IQ2_S": (256, 82),
    "IQ2_XS": (256, 74), "IQ2_XXS": (256, 66), "IQ1_M": (256, 56), "IQ1_S": (256, 50), "TQ1_0": (256, 54), "TQ2_0": (256, 66),
    "Q1_0": (128, 18), "Q2_0": (64, 18), "F32": (1, 4),
}
ROWS = 4  # of a block of matvec1_

# Units by the beginning of an instruction's name, the first that fits.
UNITS = [
    ("tensor", r"[HIQ]G?MMA"),
    ("special", r"MUFU|POPC|FLO|BREV|I2F(?!P)|F2I|F2F|I2I"),
    ("memory", r"LDG|STG|LDS|STS|SHFL|LDC|S2|BAR|LDL|STL|ATOM|RED|VOTE|MATCH|DEPBAR|MEMBAR"),
    ("heavy", r"IMAD|IDP|H(ADD|MUL|FMA|SET|MNMX)2"),
    ("float", r"F(ADD|MUL|FMA)"),
    ("control", r"BRA|BSSY|BSYNC|EXIT|NOP|WARPSYNC|BREAK|CALL|RET|YIELD|BMOV"),
    ("uniform", r"U[A-Z]|R2UR"),
    ("alu", r""),
]


def unit(name):
    return next(u for u, pattern in UNITS if re.match(pattern, name))


def disassembler():
    """The program, fetched once."""
    found = list(TOOLS.glob("**/bin/nvdisasm"))
    if not found:
        print("fetching from PyPI:", WHEEL, file=sys.stderr)
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target",
                        str(TOOLS), WHEEL], check=True)
        found = list(TOOLS.glob("**/bin/nvdisasm"))
    return str(found[0])


def image(source, architecture):
    """One image of a source."""
    rest = zlib.decompress((IMAGES / f"{source}.zlib").read_bytes())
    while rest:
        line, rest = rest.split(b"\n", 1)
        name, size = line.decode().split()
        if name == architecture:
            return rest[: int(size)]
        rest = rest[int(size):]
    raise SystemExit(f"{source} has no image {architecture}")


def kernels(source, architecture):
    """Kernels by name: their instructions as (name, operands), and at which of them labels stand."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(image(source, architecture))
        file.flush()
        text = subprocess.run([disassembler(), "-c", file.name], capture_output=True, text=True, check=True).stdout
    found, code = {}, None
    for line in text.splitlines():
        if m := re.match(r"\.text\.(\w+):", line):
            code, labels = [], {}
            found[m[1]] = code, labels
        elif re.match(r"\s+\.section", line):
            code = None
        elif code is not None and (m := re.match(r"(\.L_x_\d+):", line)):
            labels[m[1]] = len(code)
        elif code is not None and (m := re.match(r"\s+/\*[0-9a-f]+\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z0-9_.]+)([^;]*);", line)):
            code.append(("NOP" if m[1] == "!PT" else m[2], m[3]))   # what is never executed is issued
    return found


def loops(code, labels):
    """Ranges of instructions from where a branch goes back to, up to the branch."""
    ranges = []
    for i, (name, operands) in enumerate(code):
        target = labels.get((re.findall(r"\((\.L_x_\d+)\)", operands) or [None])[0]) if name.startswith("BRA") else None
        if target is not None and target < i:
            ranges.append(range(target, i + 1))
    return ranges


def count(code):
    return collections.Counter(unit(name) for name, _ in code)


def wide(code):
    return sum(name.startswith("LDG") and ".128" in name for name, _ in code)


def cycles(code, units):
    """Of a multiprocessor, for a warp's instructions: by what bounds them."""
    total = sum(units.values())
    return {"issue": total / 4, "alu": units["alu"] / 2, "heavy": units["heavy"] / 2, "float": (units["heavy"] + units["float"]) / 4,
            "special": units["special"] * 2, "memory": units["memory"] + 3 * wide(code)}


def shared_cycles(code):
    """Of shared memory: 128 bytes a cycle, without conflicts of banks."""
    cycles = 0
    for name, _ in code:
        if name.startswith("LDSM"):
            cycles += int(name.split(".")[-1]) if name[-1].isdigit() and "M88" in name else 1
        elif name.startswith(("LDS", "STS", "LDGSTS")):
            cycles += 4 if "128" in name else 2 if ".64" in name else 1
    return cycles


def products(name):
    """Of a tensor core's instruction."""
    shapes = {"16816": 16 * 8 * 16, "16832": 16 * 8 * 32, "8816": 8 * 8 * 16, "1688": 16 * 8 * 8}
    return next((n for shape, n in shapes.items() if f".{shape}" in name), 0)


def registers(source, architecture):
    rows = {}
    for line in (IMAGES / f"{source}.txt").read_text().splitlines()[2:]:
        name, arch, used, shared, *_ = line.split()
        if arch == architecture:
            rows[name] = int(used), int(shared)
    return rows


def resident(used, threads, shared=0):
    """Warps of one multiprocessor (9.0: 65536 registers in pieces of 256 for a warp, 64 warps, 32 blocks, 227 KiB)."""
    warps = -(-threads // 32)
    blocks = min(65536 // (-(-used // 8) * 8 * 32) // warps, 64 // warps, 32, 227 * 1024 // (shared + 1024))
    return blocks * warps


def table(head, rows):
    print("| " + " | ".join(head) + " |")
    print("|" + "|".join(["---"] + ["---:"] * (len(head) - 1)) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


def matvec(architecture):
    found, used = kernels("matvec", architecture), registers("matvec", architecture)
    counts, bounds = [], []
    for name, (weights, size) in BLOCKS.items():
        code, labels = found[f"matvec1_{name}"]
        turn = max((r for r in loops(code, labels) if wide([code[i] for i in r])), key=len, default=None)
        if turn is None:  # formats without loads of 16 bytes
            turn = max((r for r in loops(code, labels) if any(code[i][0].startswith("LDG") for i in r)), key=len)
        inside = code[turn.start: turn.stop]
        barrier = next(i for i, (n, _) in enumerate(code) if i >= turn.stop and n.startswith("BAR"))
        before, after = code[: turn.start], code[turn.stop: barrier + 1]
        # After the barrier one warp of four adds up and writes: a quarter of it for each, and no loop in it.
        last = code[barrier + 1:]
        bytes_of = 32 * ROWS * (16 if name in ("F16", "BF16", "F32") else 32 * size / weights)
        first = next(i for i, (n, _) in enumerate(inside) if n.startswith(("IDP", "FFMA", "HADD2")))
        loads = wide(inside[:first])
        regs = used[f"matvec1_{name}"][0]
        warps = resident(regs, 128, used[f"matvec1_{name}"][1])
        unit_counts = count(inside)
        of_256 = 256 / (32 * ROWS * (32 if weights > 1 else 16 // size))
        counts.append([name, f"{size * 8 / weights:.2f}", str(len(before)), str(len(inside)), f"{len(inside) * of_256:.1f}",
                       f"{unit_counts['alu']}", f"{unit_counts['heavy']}", f"{unit_counts['memory']}", str(len(after)), str(loads),
                       str(regs), str(warps), f"{warps * bytes_of / 1024:.0f}"])
        row = [name]
        for bandwidth, multiprocessors, clock in DEVICES.values():
            memory = bytes_of / (bandwidth / multiprocessors / clock)  # cycles that a turn's bytes take
            around = [cycles(before, count(before)), cycles(after, count(after)), cycles(last, count(last))]
            within = cycles(inside, unit_counts)
            one = {k: within[k] + around[0][k] + around[1][k] + around[2][k] / 4 for k in within}
            for need in (one, within):
                worst = max(need, key=need.get)
                row.append(f"{100 * memory / need['issue']:.0f}%")
                row.append(f"{100 * memory / need[worst]:.0f}% ({worst})")
        bounds.append(row)
    print(f"Products with one token, `matvec1_`, {architecture}: instructions of a warp; a turn is {ROWS} rows of 32 weights a lane")
    print("(floats: of 16 bytes). Loads: of 16 bytes, before the first product. KiB: that a full multiprocessor has under way.\n")
    table(["format", "bits", "before", "turn", "of 256 weights", "alu", "heavy", "memory", "after", "loads", "registers", "warps", "KiB"], counts)
    print("\nThe most of the bandwidth that instructions leave: by issue alone, and by the busiest unit. One turn: 4096 columns shared by 128")
    print("threads (floats: more turns in truth). Many: what long rows, or fewer threads, come near to.\n")
    head = ["format"]
    for device in DEVICES:
        head += [f"{device}, one turn: issue", "busiest", "many: issue", "busiest"]
    table(head, bounds)


def matmul(architecture):
    print(f"\nProducts with many tokens, {architecture}: instructions of a warp in one stage of k (64 bytes of each row).\n")
    rows = []
    for source, names in [("matmul_floats", ["matmul128_F16", "matmul128_BF16", "matmul16_F16"]),
                          ("matmul", [f"matmul64_{n}" for n in BLOCKS if n not in ("F16", "BF16", "F32")])]:
        found, used = kernels(source, architecture), registers(source, architecture)
        for name in names:
            code, labels = found[name]
            all_loops = [r for r in loops(code, labels) if any("MMA." in code[i][0] for i in r)]
            outer = max(all_loops, key=len)
            inner = min(all_loops, key=len)
            # Quantized: two groups, an inner loop of two turns.
            all_of_it = [code[i] for i in outer] + ([code[i] for i in inner] if inner != outer else [])
            stage = collections.Counter(n.split(".")[0] for n, _ in all_of_it)
            units = count(all_of_it)
            mma = units["tensor"]
            others = sum(units.values()) - mma
            tensor = sum(products(n) for n, _ in all_of_it) / 2048
            need = {**cycles(all_of_it, units), "shared": shared_cycles(all_of_it), "memory": 0}
            worst = max(need, key=need.get)
            rows.append([name, str(mma), str(others), f"{others / mma:.1f}", str(stage["LDSM"]), str(stage["LDS"]), str(stage["STS"]),
                         str(stage["LDGSTS"]), str(units["alu"]), str(units["heavy"]), str(units["float"]), str(need["shared"]),
                         str(used[name][0]), f"{100 * tensor / max(need[worst], tensor):.0f}% ({worst})"])
    table(["kernel", "MMA", "others", "a MMA", "LDSM", "LDS", "STS", "LDGSTS", "alu", "heavy", "float", "shared cycles", "registers",
           "of dense f16 at most"], rows)


def main():
    architecture = sys.argv[1] if len(sys.argv) > 1 else "sm_90"
    if not re.fullmatch(r"sm_\d+", architecture):
        raise SystemExit(__doc__)
    matvec(architecture)
    matmul(architecture)


if __name__ == "__main__":
    main()
