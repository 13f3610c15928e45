#!/usr/bin/env python3
"""Compiles the CUDA kernels for real devices, on any machine: no GPU, no CUDA toolkit.

    build.py [NAME...]   compile all sources (or NAME.cu ...) that have changed, and write their images to ../src/cuda/images
    build.py --all       the same, changed or not
    build.py --check     write nothing; fail if an embedded image is not what the sources give
    build.py --show      print registers, shared memory and spills of every kernel as the embedded reports have them
    build.py --to FOLDER [--only ARCHITECTURE] [-DNAME=VALUE...] NAME...
                         compile these sources with other constants into FOLDER, whatever they spill: for QCONV_CUDA_IMAGES=FOLDER; for
                         all devices or one kind (90: Hopper). What is there already and has not changed stays

The compiler is NVRTC 12.4 from PyPI (three wheels, 50 MB), put into a folder of its own below target/. Every source becomes a
cubin for each of ARCHITECTURES, and PTX of PTX_ARCHITECTURE, which the driver compiles for devices that are none of these.

images/NAME.zlib    all images of a source, compressed: for each a line "sm_80 12345", or "compute_80 12345" for PTX, then as many bytes
images/NAME.txt     a digest of what it was made from, and for each kernel and architecture: registers, bytes of static shared memory,
                    of stack, of spilled stores and loads

A kernel that spills fails the build unless it stands in ALLOWED_SPILLS.
"""

import concurrent.futures
import ctypes
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import zlib

HERE = pathlib.Path(__file__).resolve().parent
IMAGES = HERE.parent / "src/cuda/images"
TOOLS = HERE.parent.parent / "target/cuda-tools"
WHEELS = ["nvidia-cuda-nvrtc-cu12==12.4.127", "nvidia-cuda-runtime-cu12==12.4.127", "nvidia-cuda-nvcc-cu12==12.4.131"]

# Turing, A100, Ampere, Ada, Hopper.
ARCHITECTURES = [75, 80, 86, 89, 90]

# PTX runs on this capability and all that come after: Blackwell (10.0, 12.0), and embedded devices (8.7), on which cubins for others
# need not run. Nothing in the kernels is for more than 8.0 (asynchronous copies, BF16); of 7.5 there would be no BF16.
PTX_ARCHITECTURE = 80
OPTIONS = ["--std=c++17", "--restrict", "--extra-device-vectorization"]

# Kernels that may spill, how many bytes at most (stores and loads together), and why. What it costs is not measured.
ALLOWED_SPILLS = [
    (r"attention[14]_256", 256, "sums of 16 rows of 256 are more than a thread's 255 registers, with Turing's assembler"),
    (r"matmul(16|64)_\w+", 32, "registers are capped so that two blocks share a multiprocessor"),
]


def tools():
    """Folders of the wheels, fetched once."""
    mark = TOOLS / "wheels.txt"
    if not mark.exists() or mark.read_text() != "\n".join(WHEELS):
        print("fetching the compiler from PyPI:", *WHEELS, file=sys.stderr)
        TOOLS.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--upgrade",
                   "--target", str(TOOLS), *WHEELS]
        if subprocess.run(command).returncode:
            # A system's own Python may refuse, or have no pip: a virtual environment has one.
            venv = TOOLS / "venv"
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            subprocess.run([str(venv / "bin/python"), *command[1:]], check=True)
        mark.write_text("\n".join(WHEELS))
    return TOOLS / "nvidia"


class Nvrtc:
    """The compiler's library, through its C interface."""

    def __init__(self, nvidia):
        # Its second library is found by name: it has to be loaded already.
        for name in ("libnvrtc-builtins.so.12.4", "libnvrtc.so.12"):
            self.library = ctypes.CDLL(str(nvidia / "cuda_nvrtc/lib" / name), mode=ctypes.RTLD_GLOBAL)
        self.include = nvidia / "cuda_runtime/include"

    def compile(self, source, options, kind):
        """The bytes of a cubin ("CUBIN") or PTX ("PTX")."""
        program = ctypes.c_void_p()
        text = source.read_bytes()
        self.call("CreateProgram", ctypes.byref(program), text, source.name.encode(), 0, None, None)
        try:
            options = [o.encode() for o in [*options, f"--include-path={HERE}", f"--include-path={self.include}"]]
            status = self.library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
            log = self.get(program, "ProgramLog").rstrip(b"\0").decode().strip()
            if status:
                raise RuntimeError(f"{source.name} {options}:\n{log}")
            return self.get(program, kind), log
        finally:
            self.call("DestroyProgram", ctypes.byref(program))

    def get(self, program, what):
        size = ctypes.c_size_t()
        self.call(f"Get{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"Get{what}", program, buffer)
        return buffer.raw

    def call(self, name, *arguments):
        status = getattr(self.library, f"nvrtc{name}")(*arguments)
        if status:
            raise RuntimeError(f"nvrtc{name} failed with {status}")


def digest(source):
    """Of everything that the images of a source are made from: itself, what it includes, the compiler and its options."""
    seen, queue = {}, [source]
    while queue:
        file = queue.pop()
        if file in seen:
            continue
        seen[file] = file.read_bytes()
        for name in re.findall(rb'^\s*#\s*include\s+"([^"]+)"', seen[file], re.M):
            candidates = [file.parent / name.decode(), HERE / name.decode()]
            found = next((c.resolve() for c in candidates if c.exists()), None)
            if found and HERE / "cpu" not in found.parents:  # those are the CPU's
                queue.append(found)
    sums = hashlib.sha256(repr((WHEELS, ARCHITECTURES, PTX_ARCHITECTURE, OPTIONS)).encode())
    for file in sorted(seen):
        sums.update(str(file.relative_to(HERE)).encode() + b"\0" + seen[file] + b"\0")
    return sums.hexdigest()


PROPERTIES = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)", re.S)


def image(task, definitions=()):
    """One image of one source: runs in a process of its own, since NVRTC compiles one at a time."""
    source, architecture, nvidia = task
    nvrtc = Nvrtc(nvidia)
    if architecture is None:
        ptx, log = nvrtc.compile(source, [*OPTIONS, *definitions, f"--gpu-architecture=compute_{PTX_ARCHITECTURE}"], "PTX")
        return ptx, log, []
    with tempfile.TemporaryDirectory() as folder:
        # PTX first, then the assembler: NVRTC's own would not tell about registers where it compiles nothing anew.
        ptx, log = nvrtc.compile(source, [*OPTIONS, *definitions, f"--gpu-architecture=compute_{architecture}"], "PTX")
        (pathlib.Path(folder) / "in.ptx").write_bytes(ptx.rstrip(b"\0"))
        assembler = [str(nvidia / "cuda_nvcc/bin/ptxas"), "-v", f"-arch=sm_{architecture}", "in.ptx", "-o", "out.cubin"]
        done = subprocess.run(assembler, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{source.name} sm_{architecture}:\n{done.stdout}{done.stderr}")
        rows = []
        for m in PROPERTIES.finditer(done.stdout + done.stderr):
            shared = re.search(r"(\d+) bytes smem", m["rest"])
            rows.append((m["name"], architecture, int(m["registers"]), int(shared[1]) if shared else 0, int(m["stack"]),
                         int(m["stores"]), int(m["loads"])))
        return (pathlib.Path(folder) / "out.cubin").read_bytes(), log, rows


HEADER = f"{'kernel':40} {'arch':>5} {'registers':>9} {'shared':>7} {'stack':>6} {'spill stores':>12} {'spill loads':>11}"


def report(key, rows):
    lines = [f"digest {key}", HEADER]
    lines += [f"{n:40} sm_{a} {r:9} {sh:7} {st:6} {ss:12} {sl:11}" for n, a, r, sh, st, ss, sl in sorted(rows)]
    return "\n".join(lines) + "\n"


def embedded_digest(source):
    note = IMAGES / f"{source.stem}.txt"
    return note.read_text().split()[1] if note.exists() and (IMAGES / f"{source.stem}.zlib").exists() else None


def build(sources, nvidia, pool, definitions=(), architectures=(*ARCHITECTURES, None)):
    """Compiles sources; (source, archive, rows of the report, error or None) of each, in their order, as they are done."""
    tasks = {s: [(a, pool.submit(image, (s, a, nvidia), definitions)) for a in architectures] for s in sources}
    for source, images in tasks.items():
        parts, rows, errors = b"", [], []
        for architecture, future in images:
            try:
                data, log, found = future.result()
            except RuntimeError as error:
                errors.append(str(error))
                continue
            if log:
                print(f"{source.name}: {log}", file=sys.stderr)
            name = f"sm_{architecture}" if architecture else f"compute_{PTX_ARCHITECTURE}"
            parts += f"{name} {len(data)}\n".encode() + data
            rows += found
        yield source, parts, rows, errors[0] if errors else None


def variant(folder, sources, definitions, architectures):
    """Sources compiled with other constants."""
    folder.mkdir(parents=True, exist_ok=True)

    def key(source):
        return f"{digest(source)} {' '.join(definitions)} {architectures}"

    def is_there(source):
        note = folder / f"{source.stem}.txt"
        return note.exists() and note.read_text().startswith(f"digest {key(source)}\n")

    sources = [s for s in sources if not is_there(s)]
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        for source, parts, rows, error in build(sources, tools(), pool, definitions, architectures):
            if error:
                raise SystemExit(error)
            (folder / f"{source.stem}.zlib").write_bytes(zlib.compress(parts, 9))
            (folder / f"{source.stem}.txt").write_text(report(key(source), rows))


def main():
    arguments = sys.argv[1:]
    if "--to" in arguments:
        def take(flag):
            at = arguments.index(flag) if flag in arguments else len(arguments)
            return (arguments[at:at + 2] + [None, None])[1], arguments[:at] + arguments[at + 2:]

        folder, arguments = take("--to")
        only, rest = take("--only")
        names = [a for a in rest if not a.startswith("-D")]
        sources = [HERE / f"{pathlib.Path(n).stem}.cu" for n in names]
        known = only is None or only in map(str, ARCHITECTURES)
        if not folder or not known or not sources or not all(s.exists() for s in sources):
            raise SystemExit(__doc__)
        return variant(pathlib.Path(folder), sources, [a for a in rest if a.startswith("-D")],
                       (int(only),) if only else (*ARCHITECTURES, None))
    flags = {a for a in sys.argv[1:] if a.startswith("-")}
    names = {pathlib.Path(a).stem for a in sys.argv[1:] if not a.startswith("-")}
    if flags - {"--all", "--check", "--show"}:
        raise SystemExit(__doc__)
    sources = sorted(HERE.glob("*.cu"))
    if names - {s.stem for s in sources}:
        raise SystemExit(f"no such source: {', '.join(sorted(names - {s.stem for s in sources}))}")
    chosen = [s for s in sources if not names or s.stem in names]
    if "--show" in flags:
        for source in chosen:
            print(f"{source.name}\n{(IMAGES / f'{source.stem}.txt').read_text()}")
        return
    problems = []
    left_over = {p.stem for p in IMAGES.glob("*.zlib")} - {s.stem for s in sources}
    problems += [f"images/{name}.zlib has no source any more: remove it and its report" for name in sorted(left_over)]
    stale = [s for s in chosen if "--all" in flags or embedded_digest(s) != digest(s)]
    if "--check" in flags:
        problems += [f"{s.name}: the embedded images are of other sources: run kernels/cuda/build.py" for s in stale]
        # The digests agree: whether the bytes do is seen by making them again.
        stale = chosen if not problems else []
    if stale:
        nvidia = tools()
        IMAGES.mkdir(exist_ok=True)
        with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
            for source, parts, rows, error in build(stale, nvidia, pool):
                if error:
                    problems.append(error)
                    continue
                text = report(digest(source), rows)
                print(f"{source.name}: {len(parts)} bytes of images\n{text}", flush=True)
                for name, architecture, *_, stores, loads in rows:
                    allowed = max((most for kernel, most, _ in ALLOWED_SPILLS if re.fullmatch(kernel, name)), default=0)
                    if stores + loads > allowed:
                        problems.append(f"{source.name}: {name} spills on sm_{architecture} ({stores} bytes stored, {loads} loaded)")
                archive, note = IMAGES / f"{source.stem}.zlib", IMAGES / f"{source.stem}.txt"
                if "--check" in flags:
                    if zlib.decompress(archive.read_bytes()) != parts or note.read_text() != text:
                        problems.append(f"{source.name}: the embedded images differ from what the compiler gives")
                else:
                    archive.write_bytes(zlib.compress(parts, 9))
                    note.write_text(text)
    for problem in problems:
        print(problem, file=sys.stderr)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
