#!/usr/bin/env bash
# What has to be seen on a real GPU, in two steps, since a machine with one may have no Rust and no network:
#
#   benches/gpu.sh pack FOLDER        where Rust is: builds everything that is needed into FOLDER (some 35 MB), to be copied over. What an
#                                     interrupted call has built is not built again; PROFILE=dev is sooner done (and slower on the
#                                     processor); LLAMA_CPP=FOLDER takes llama.cpp's source along (6 MB)
#   FOLDER/gpu.sh PART [MODEL...]     where the GPU is: one of four parts, or `run` for all of them. Writes a record
#                                     DATE-gpu-NAME-PART.md into RECORDS (or FOLDER), step by step as they end
#
#   tests    does it compute rightly: every CUDA test on the device, the simplest first, each in a process of its own, those that fail once more
#            with what is known of the fault; logits of small models of all families, text and perplexity on the device against the
#            processor's; the text of a model whose layers are split, and of kernels that the driver has compiled from PTX
#   speed    qconv bench on models of Llama-3.2-1B's and Llama-3-8B's shapes with random weights, made on the spot, and on every
#            MODEL, with the times of single kernels; generation with other constants than the built-in ones (SWEEP: the model's
#            file, by default the smaller shape's in Q4_K_M)
#   llama    llama-bench on the same files: LLAMA_BENCH, the one on the PATH, or one that is built from LLAMA_CPP or the source that was
#            packed, with CMake and nvcc (some ten minutes on 16 processors; call the part again if it was too long)
#   checks   the tests under compute-sanitizer's memcheck, racecheck and synccheck, if it is there
#
# A part takes PART_SECONDS (530) at most: a step has what is left of that, or STEP_SECONDS (150) if that is less, and is killed
# then; what the time did not suffice for is named. A step that has succeeded is not repeated: call the part again for
# those that are left. (What was done, and the models, lie in WORK, a folder of its own, or FOLDER/work.) ONLY='a regular expression'
# takes the steps with such titles, done or not.
# Models (18 GB, and 16 more while they are made) and llama-bench are made meanwhile, on the processors only, from the first part on; with
# AHEAD=0 not before they are needed. For half an hour with a card in calls of ten minutes: tests, speed, llama.
# It ends with 0 only if every step succeeded, with 3 if nothing can be tried: no card, no driver, programs that do not run. On the stand-in
# for the driver (LD_LIBRARY_PATH=$PWD/target/cuda-on-cpu/none) it can be tried without a GPU (SHAPES=mini makes it bearable); the
# record then says that its times are nobody's.
set -uo pipefail

pack() {
    set -e
    local out=$1
    mkdir -p "$out"
    out=$(cd "$out" && pwd)
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    local profile=${PROFILE:-release} tests program payload variants=target/gpu-variants
    began() { echo "== $1 ($((SECONDS / 60)) min)" >&2; }
    began "1 of 4: the program ($profile)"
    cargo build --profile "$profile" --bin qconv
    program=$(cargo build --profile "$profile" --bin qconv --message-format=json 2>/dev/null |
        sed -n 's/.*"executable":"\([^"]*qconv\)".*/\1/p' | tail -1)
    began "2 of 4: the tests"
    cargo test -p qconv-kernels --lib --no-run
    tests=$(cargo test -p qconv-kernels --lib --no-run --message-format=json 2>/dev/null |
        sed -n 's/.*"executable":"\([^"]*qconv_kernels-[^"]*\)".*/\1/p' | tail -1)
    [ -x "$tests" ] && [ -x "$program" ] || { echo "gpu.sh: cargo does not tell what it has built" >&2 && exit 1; }
    payload=$(mktemp -d)
    # Without symbols: they are three quarters of the bytes.
    strip -s -o "$payload/qconv" "$program"
    strip -s -o "$payload/cuda-tests" "$tests"
    cp -r fixtures/models/prose-4m fixtures/texts/prose.txt benches/random_checkpoint.py benches/same_logits.py "$payload/"
    mkdir "$payload/logits"
    cp -r fixtures/architectures/*/ fixtures/configurations/*/ "$payload/logits/"
    # PTX alone, as cards get it that no machine code is for.
    python3 - "$payload/ptx" <<'END'
import pathlib, sys, zlib
to = pathlib.Path(sys.argv[1])
to.mkdir()
for archive in pathlib.Path("kernels/src/cuda/images").glob("*.zlib"):
    rest = zlib.decompress(archive.read_bytes())
    while rest:
        line, rest = rest.split(b"\n", 1)
        image, rest = rest[:int(line.split()[1])], rest[int(line.split()[1]):]
        if line.startswith(b"compute_"):
            (to / archive.name).write_bytes(zlib.compress(line + b"\n" + image, 9))
END
    # Without what is for other tools and devices.
    if [ -n "${LLAMA_CPP:-}" ]; then
        mkdir "$payload/llama.cpp"
        tar -C "$LLAMA_CPP" -c --exclude-vcs --exclude=./{models,gguf-py,tests,docs,media,examples,conversion,app,build,benches,tools/ui,tools/server} \
            --exclude=ggml-{vulkan,opencl,metal,sycl,cann,webgpu,hexagon} . | tar -C "$payload/llama.cpp" -x
    fi
    # Kernels of other constants, for the sweep: how many blocks of a single token's product a multiprocessor should hold.
    local resident
    for resident in ${RESIDENT-4 5 7 8}; do
        began "3 of 4: kernels of other constants ($resident of ${RESIDENT-4 5 7 8})"
        kernels/cuda/build.py --to "$variants/resident-$resident" --only "${SWEEP_FOR:-90}" "-DMATVEC_RESIDENT=$resident" matvec
        cp -r "$variants/resident-$resident" "$payload/"
    done
    began "4 of 4: all of it in one file"
    git rev-parse --short HEAD >"$payload/commit"
    [ -z "$(git status --porcelain)" ] || echo "with changes that are not committed" >>"$payload/commit"
    [ "$profile" = release ] || echo "built with the profile $profile: times of the processor are not those of a release" >>"$payload/commit"
    tar -C "$payload" -czf "$out/payload.tar.gz.new" .
    mv "$out/payload.tar.gz.new" "$out/payload.tar.gz"
    rm -r "$payload"
    cp benches/gpu.sh "$out/"
    echo "now copy $out ($(du -sh "$out" | cut -f1)) to the machine with the GPU and call $out/gpu.sh tests there"
}

# Where the driver and its tools lie when nobody has said so, as in some containers: not the toolkit's own stubs.
find_driver() {
    local folder given=${LD_LIBRARY_PATH:-}
    export PATH=$PATH:/usr/local/nvidia/bin:/usr/local/cuda/bin
    # The card that nvidia-smi counts first is the driver's first, too.
    export CUDA_DEVICE_ORDER=PCI_BUS_ID
    { ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null | grep -q 'libcuda\.so\.1' && return
    for folder in ${given//:/ } /usr/local/nvidia/lib64 /usr/local/nvidia/lib /usr/lib/wsl/lib /run/opengl-driver/lib; do
        if [ -e "$folder/libcuda.so.1" ] || [ -e "$folder/libcuda.so" ]; then
            export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder
            return
        fi
    done
}

# Whether a step is to be made: not if it has succeeded before, unless it is asked for by name.
wanted() {
    if [ -n "${ONLY:-}" ]; then
        [[ $1 =~ $ONLY ]]
    elif grep -qxF "$1" "$finished"; then
        echo "== $1: done before" >&2
        return 1
    fi
}

# Seconds that a step may take; fewer than 5 are none.
seconds_for_a_step() {
    local left=$((${PART_SECONDS:-530} - SECONDS)) most=${1:-${STEP_SECONDS:-150}}
    echo $((left < most ? left : most))
}

# Runs a command for so many seconds at most, into $log. Not in the foreground: bash would hear of a signal only when it is done.
limited() {
    timeout -k 5 "$@" >"$log" 2>&1 &
    child=$!
    wait "$child"
}

# Killed from outside, it still says what it was at, and what that had said.
stopped() {
    kill "$child" 2>/dev/null
    signal_ahead CONT
    tr '\r' '\n' <"${log:-/dev/null}" | tail -n 20 >>"$record"
    printf '```\n\n**Stopped here.**\n' >>"$record"
    summary "stopped after $SECONDS s"
    exit 143
}

# Runs a step, into the record: a heading, the command, the end of what it said, whether it succeeded. LIMIT: its own limit.
step() {
    local title=$1 lines=$2 limit status began
    shift 2
    wanted "$title" || return 0
    limit=$(seconds_for_a_step "${LIMIT:-}")
    if [ "$limit" -lt 5 ]; then
        late+=("$title")
        return 1
    fi
    echo "== $title (at most $limit s)" >&2
    printf '\n## %s\n\n```text\n$ %s\n' "$title" "$*" >>"$record"
    log=$(mktemp)
    began=$SECONDS
    limited "$limit" "$@"
    status=$?
    # Without what programs that think they have a terminal write to go back in a line.
    tr '\r' '\n' <"$log" | tail -n "$lines" >>"$record"
    printf '```\n%s s.\n' $((SECONDS - began)) >>"$record"
    if [ $status -ne 0 ]; then
        failed+=("$title")
        printf '\n**Failed** with exit code %s%s.\n' $status "$([ $status -eq 124 ] || [ $status -eq 137 ] && echo ': it took too long')" >>"$record"
        echo "   failed with exit code $status:" >&2
        tail -n 5 "$log" | sed 's/^/   /' >&2
    else
        echo "$title" >>"$finished"
    fi
    rm "$log"
    log=""
    return $status
}

# The CUDA tests that concern a device: the simplest first, so that it is seen early what fails at all; the largest last. Not
# those that read the sources.
tests_in_order() {
    local all first
    all=$(./cuda-tests --list cuda::tests 2>/dev/null | sed -n 's/: test$//p' | grep -v codebooks)
    for first in operations::elements operations:: record:: engine::attention$ engine::what_is_no engine::two engine::embeddings . ; do
        grep "$first" <<<"$all" | grep -v products_in_every_format
    done | awk '!seen[$0]++'
    grep products_in_every_format <<<"$all"
}

# Every test in a process of its own: a fault of the device ends one, and leaves the others. LIMIT seconds each, one line in the record
# for those that pass. Arguments: a title, and what to run the tests under.
each_test() {
    local title=$1 test limit status began good=0 bad=0 skipped=0 begun="" broken=()
    shift
    log=$(mktemp)
    # What a driver refuses needs no tool that looks into kernels.
    for test in $(tests_in_order | if [ $# -gt 0 ]; then grep -v refusals::; else cat; fi); do
        wanted "$title: $test" || continue
        limit=$(seconds_for_a_step "${LIMIT:-}")
        if [ "$limit" -lt 5 ]; then
            late+=("$title: $test")
            continue
        fi
        [ -n "$begun" ] || printf '\n## %s\n\n```text\n$ %s./cuda-tests --exact NAME\n' "$title" "${*:+$* }" >>"$record"
        begun=yes
        began=$SECONDS
        limited "$limit" "$@" ./cuda-tests --exact "$test" --test-threads=1
        status=$?
        # A name that matches nothing is no test that passed, nor is one that has said that it tested nothing.
        if [ $status -eq 0 ] && grep -q "^SKIPPED" "$log"; then
            skipped=$((skipped + 1))
            echo "skipped       $test" >>"$record"
        elif [ $status -eq 0 ] && grep -q "^test result: ok. 1 passed" "$log"; then
            good=$((good + 1))
            echo "$title: $test" >>"$finished"
            echo "ok      $((SECONDS - began)) s  $test" >>"$record"
        else
            bad=$((bad + 1))
            broken+=("$test")
            echo "FAILED  $((SECONDS - began)) s  $test (exit code $status$([ $status -eq 124 ] && echo ', too long'))" | tee -a "$record" >&2
            grep -vE '^ *(at |[0-9]+: )|RUST_BACKTRACE|^$' "$log" | tail -n 40 | cut -c 1-400 | sed 's/^/        /' >>"$record"
        fi
    done
    rm "$log"
    [ -n "$begun" ] || return 0
    printf '```\n%s passed, %s failed, %s are not about a card.\n' $good $bad $skipped >>"$record"
    echo "== $title: $good passed, $bad failed, $skipped skipped" >&2
    [ $bad -eq 0 ] && return
    failed+=("$title")
    # Not for those that already ran under something.
    [ $# -gt 0 ] || for test in "${broken[@]:0:${DIAGNOSES:-6}}"; do diagnose "$test"; done
}

# Runs a test that failed again: launch by launch, so that the kernel at fault is the one that is named, and under memcheck.
diagnose() {
    local how limit
    log=$(mktemp)
    printf '\n### %s again\n' "$1" >>"$record"
    for how in "env CUDA_LAUNCH_BLOCKING=1" "compute-sanitizer --tool memcheck --report-api-errors no --print-limit 3"; do
        command -v ${how%% *} >/dev/null || continue
        limit=$(seconds_for_a_step 60)
        [ "$limit" -ge 5 ] || return 0
        printf '\n```text\n$ %s ./cuda-tests --exact %s\n' "$how" "$1" >>"$record"
        limited "$limit" $how ./cuda-tests --exact "$1" --test-threads=1
        grep -vE '^ *(at |[0-9]+: )|RUST_BACKTRACE|Host Frame|^=* *$' "$log" | head -n 60 | cut -c 1-300 >>"$record"
        printf '```\n' >>"$record"
    done
    rm "$log"
}

# Notes what was not run, and why.
leave_out() {
    printf '\n%s: not run, %s.\n' "$1" "$2" >>"$record"
    echo "== $1: not run, $2" >&2
}

# The text that a backend writes, to be compared.
text() {
    ./qconv run prose-4m -p "The " -n "${TEXT:-48}" --temp 0 -q "$@"
}

same_text() {
    local want got
    want=$(text --backend cpu) && got=$(text "$@") || return 1
    printf 'processor: %s\nhere:      %s\n' "$want" "$got"
    [ "$want" = "$got" ]
}

# Both perplexities of a model, which may differ by half a percent.
same_perplexity() {
    local backend value=()
    ./qconv convert prose-4m -t "$1" -o "small-$1.gguf" --force -q || return 1
    for backend in cpu cuda; do
        value+=("$(./qconv perplexity "small-$1.gguf" --file prose.txt -c 256 --chunks "${CHUNKS:-16}" --json --backend $backend |
            sed -n 's/.*"perplexity": *\([0-9.]*\).*/\1/p' | head -1)")
        echo "$backend: ${value[-1]}"
    done
    awk -v cpu="${value[0]}" -v cuda="${value[1]}" 'BEGIN { exit !(cpu > 0 && cuda / cpu < 1.005 && cuda / cpu > 0.995) }'
}

# Logits of a small model on the device, beside those of transformers. Its type has eight bits, and one of its rows may have other experts.
same_logits() {
    local model status=0
    for model in logits/*/; do
        ./same_logits.py tokens "$model" >tokens.json &&
            ./qconv run "$model" --tokens tokens.json --logits logits.f32 --backend cuda -q &&
            ./same_logits.py compare "$model" logits.f32 "${ALLOWED:-0.025}" || { echo "$model: FAILED" && status=1; }
    done
    return $status
}

# What the models of a shape are wanted in.
types_of() {
    echo q4_k_m q8_0
    [ "$1" = llama-3-8b ] || echo bf16
}

# Makes the models of a shape, with random weights; what is there is not made again, what somebody else makes is waited for.
make_models() (
    flock 9
    shape=$1
    missing=()
    for type in $(types_of "$shape"); do [ -e "$shape-$type.gguf" ] || missing+=("$type"); done
    if [ ${#missing[@]} -gt 0 ]; then
        ./random_checkpoint.py "$shape" "$shape" prose-4m || exit 1
        for type in "${missing[@]}"; do ./qconv convert "$shape" -t "$type" -o "$shape-$type.gguf" -q || exit 1; done
        rm -r "$shape"
    fi
    ls -l "$shape"-*.gguf
) 9>"$1.lock"

# Builds llama-bench, likewise.
build_llama() (
    flock 9
    cmake -S "$1" -B llama-build -DGGML_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=native -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF \
        -DLLAMA_BUILD_{SERVER,APP,TESTS,EXAMPLES}=OFF && cmake --build llama-build --target llama-bench -j "$(nproc)"
) 9>llama.lock

# Where there is a llama-bench, or what llama-bench is built from, if it can be.
llama_bench() { echo "${LLAMA_BENCH:-$(command -v llama-bench)}"; }
llama_source() {
    local source=${LLAMA_CPP:-$PWD/llama.cpp}
    [ -d "$source" ] && command -v cmake >/dev/null && command -v nvcc >/dev/null && echo "$source"
}

# Whatever takes processors and no card is done while the tests take the card and hardly a processor: it outlives this call, and
# stands still while something is timed. What fails here is told by the step that needs it.
ahead() {
    local shape source
    for shape in ${SHAPES:-llama-3.2-1b llama-3-8b}; do make_models "$shape"; done
    [ -n "$(llama_bench)" ] || { source=$(llama_source) && build_llama "$source"; }
}
is_ahead() { [ "$(tr '\0' ' ' 2>/dev/null <"/proc/$(cat ahead.pid 2>/dev/null)/cmdline")" = "bash -c ahead " ]; }
begin_ahead() {
    [ "${AHEAD:-1}" = 1 ] || return 0
    is_ahead && return
    export -f ahead make_models types_of build_llama llama_bench llama_source
    setsid nice -n 19 bash -c ahead >ahead.log 2>&1 </dev/null &
    echo $! >ahead.pid
    while ! is_ahead && kill -0 $! 2>/dev/null; do sleep 0.05; done   # until it is what it will be called
    disown
}
signal_ahead() { ! is_ahead || kill "-$1" -- "-$(cat ahead.pid)"; }
alone() {
    local status=0
    signal_ahead STOP
    "$@" || status=$?
    signal_ahead CONT
    return $status
}

# llama-bench on the models that are there, or on those of `speed`.
llama() {
    local bench source shape model
    export -f build_llama make_models types_of
    bench=$(llama_bench)
    if [ -z "$bench" ]; then
        if ! source=$(llama_source); then
            leave_out "llama.cpp" "there is no llama-bench, and not all of its source, CMake and nvcc to build it"
            return
        fi
        LIMIT=${LLAMA_SECONDS:-1800} step "Build llama-bench" 6 bash -c "build_llama '$source'" || return
        bench=./llama-build/bin/llama-bench
    fi
    for shape in ${SHAPES:-llama-3.2-1b llama-3-8b}; do
        [ -e "$shape-q8_0.gguf" ] || LIMIT=300 step "Make $shape" 8 bash -c "make_models $shape"
    done
    for model in "$@" ./*-q4_k_m.gguf ./*-q8_0.gguf ./*-bf16.gguf; do
        [[ $model = ./small-* ]] || [ ! -e "$model" ] ||
            alone step "llama.cpp: $(basename "$model")" 12 "$bench" -m "$model" -p "${PROMPT:-512}" -n "${TOKENS:-128}" -r "${REPETITIONS:-3}" -ngl 99 -fa 1
    done
}

tests() {
    begin_ahead
    LIMIT=60 step "The card" 12 ./qconv run prose-4m -p "The " -n 4 --temp 0 --backend cuda
    LIMIT=${TEST_SECONDS:-90} each_test "Tests on the device"
    # Functions as steps: through a shell of their own.
    export -f text same_text same_perplexity same_logits
    step "Logits of all families" 40 bash -c same_logits
    step "The processor's text" 4 bash -c "same_text --backend cuda"
    step "The processor's text, split" 4 bash -c "same_text --backend cuda --gpu-layers 2"
    local type
    for type in ${TYPES:-q8_0 q4_k_m q4_0 q2_k bf16}; do
        step "Perplexity, $type" 8 bash -c "same_perplexity $type"
    done
    # Last, since compiling may take minutes; the driver keeps what it has made.
    LIMIT=240 step "The processor's text, by kernels that the driver compiles from PTX" 4 env QCONV_CUDA_IMAGES="$PWD/ptx" bash -c "same_text --backend cuda"
}

speed() {
    local models=("$@") shape type model all=()
    export -f make_models types_of sweep
    begin_ahead
    # What is wanted first comes first: the speeds of all, then why.
    for shape in ${SHAPES:-llama-3.2-1b llama-3-8b}; do
        LIMIT=300 step "Make $shape" 8 bash -c "make_models $shape"
        for type in $(types_of "$shape"); do
            all+=("$shape-$type.gguf")
            measure "$shape-$type.gguf"
        done
    done
    for model in "${models[@]}"; do measure "$model" && all+=("$model"); done
    for model in "${all[@]}"; do
        [ ! -e "$model" ] ||
            alone step "Kernels: $(basename "$model")" 60 ./qconv bench "$model" -p "${PROMPT:-512}" -n "${KERNEL_TOKENS:-32}" -r 1 --backend cuda --kernels
    done
    local smallest=${SHAPES:-llama-3.2-1b}
    LIMIT=200 alone step "Constants" 16 bash -c "sweep ${SWEEP:-${smallest%% *}-q4_k_m.gguf}"
    for shape in ${SHAPES:-llama-3.2-1b llama-3-8b}; do
        alone step "Long context: $shape" 12 ./qconv bench "$shape-q4_k_m.gguf" -p 0 -n "${TOKENS:-128}" -d "${DEPTH:-4096}" -r 2 --backend cuda
        alone step "Side by side: $shape" 12 ./qconv bench "$shape-q4_k_m.gguf" -p 0 -n "${TOKENS:-128}" --parallel 4,16 -r 2 --backend cuda
    done
}

# Tokens a second with other constants, each in a line: without graphs, warps that a single token's products should have, blocks of them that a
# multiprocessor should hold. The first and the last line are as built: what differs between these is chance.
sweep() {
    local model=$1 setting speed status=0
    for setting in "" QCONV_CUDA_GRAPHS=0 QCONV_CUDA_WARPS={1,3168,6336,25344,1000000} $(ls -d "$PWD"/resident-* 2>/dev/null | sed 's/^/QCONV_CUDA_IMAGES=/') ""; do
        speed=$(env $setting ./qconv bench "$model" -p 0 -n "${TOKENS:-128}" -r 2 --backend cuda --json 2>sweep.log |
            sed -n 's/.*"tokens_per_second": *\([0-9.]*\).*/\1/p' | head -1)
        if [ -n "$speed" ]; then
            LC_ALL=C printf '%-40s %10.1f tokens/s\n' "$(echo "${setting:-as built}" | sed "s|=$PWD/|=|")" "$speed"
        else   # kernels for other cards, say
            status=1
            echo "$setting: $(tail -n 1 sweep.log)"
        fi
    done
    return $status
}

# The speed of a model.
measure() {
    [ -e "$1" ] || { leave_out "Speed: $(basename "$1")" "the file is not there" && return 1; }
    alone step "Speed: $(basename "$1")" 12 ./qconv bench "$1" -p "${PROMPT:-512}" -n "${TOKENS:-128}" -r "${REPETITIONS:-3}" --backend cuda
}

checks() {
    local all="memcheck, racecheck and synccheck"
    command -v compute-sanitizer >/dev/null || { leave_out "$all" "compute-sanitizer is not on this machine" && return; }
    # Where a machine hides its device's debugging interface (gVisor does), every test would only say so.
    log=$(mktemp)
    limited 120 compute-sanitizer --tool memcheck ./cuda-tests --exact cuda::tests::operations::rope
    if grep -qiE 'device not supported|internal sanitizer error|unable to (attach|initialize)|LibraryNotLoaded' "$log"; then
        leave_out "$all" "compute-sanitizer does not work here: $(grep -iE 'support|error|unable' "$log" | head -n 1)"
        return
    fi
    # Calls that fail are no faults: the program asks for kernels that may not be there, and the tests for what is refused.
    local tool
    for tool in memcheck racecheck synccheck; do
        LIMIT=${CHECK_SECONDS:-100} each_test $tool compute-sanitizer --tool $tool --report-api-errors no --error-exitcode 9
    done
}

# A part, from the record's head to its end.
part() {
    local part=$1 name
    shift
    name=$(timeout 20 nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
    [ -n "$name" ] || name="unknown card"
    record=$records/$(date +%F)-gpu-$(echo "$name" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')-$part.md
    failed=()
    late=()
    child=""
    log=""
    [ -e "$record" ] || {
        echo "# $name, $(date +%F): $part"
        echo
        echo "qconv at commit $(paste -sd ' ' commit). Made by benches/gpu.sh."
        echo
        if command -v nvidia-smi >/dev/null; then
            timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used,utilization.gpu,power.limit,clocks.max.sm,clocks.max.mem,mig.mode.current --format=csv |
                sed 's/^/    /'
            timeout 20 nvidia-smi -L | sed 's/ (UUID.*//; s/^/    /'
            echo
            local others
            others=$(timeout 20 nvidia-smi --query-compute-apps=pid --format=csv,noheader | grep -c '[0-9]')
            echo "Other programs on the device when this began: $others."
            [ "$others" = 0 ] || printf '\n**The times below are those of a card that others use, too.**\n'
            echo
            echo "The machine: $(nproc) processors, $(sed -n 's/^MemTotal: *//p' /proc/meminfo), $(uname -r)."
        else
            echo "There is no nvidia-smi here: what card this is, and what else runs on it, is not known."
        fi
        if grep -q stand-in first.log; then
            printf '\n**This is the stand-in for the driver: no time below is that of a card.**\n'
        fi
        printf '\nThe first words of a model here (%s s):\n\n' "$first_seconds"
        sed 's/^/    /' first.log
    } >>"$record"
    trap stopped TERM INT HUP
    "$part" "$@"
    summary "$SECONDS s"
    trap - TERM INT HUP
    [ $((${#failed[@]} + ${#late[@]})) -eq 0 ]
}

# What became of a part, into the record and to the caller.
summary() {
    {
        printf '\n%s steps failed, %s had no time left (%s).\n' ${#failed[@]} ${#late[@]} "$1"
        [ ${#failed[@]} -eq 0 ] || printf -- '- failed: %s\n' "${failed[@]}"
        [ ${#late[@]} -eq 0 ] || printf -- '- no time left: %s\n' "${late[@]}"
    } | tee -a "$record"
    echo "$record"
}

# Whether anything can be tried at all: the programs run here, and find a card. Says why not, as the record's whole text would.
preflight() {
    local began=$SECONDS
    ./qconv --version >first.log 2>&1 && ./cuda-tests --list >>first.log 2>&1 || {
        printf 'gpu.sh: the programs do not run on this machine:\n%s\n' "$(head -n 5 first.log)" >&2
        return 3
    }
    timeout 120 ./qconv run prose-4m -p x -n 1 --backend cuda >first.log 2>&1 || {
        printf 'gpu.sh: no model runs on a card here:\n%s\n' "$(tail -n 5 first.log)" >&2
        { nvidia-smi -L; ldconfig -p | grep -E 'libcuda|libnvidia-ml'; echo "LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}"; ls -d /dev/nvidia*; } >&2
        grep -qE 'no NVIDIA driver|finds no device|stub of a CUDA' first.log && return 3
    }
    first_seconds=$((SECONDS - began))
}

run() {
    local parts=$1 model models=() status=0
    shift
    # Models may be named from where the caller is.
    for model in "$@"; do models+=("$(realpath "$model")"); done
    records=$(realpath "${RECORDS:-$(dirname "${BASH_SOURCE[0]}")}")
    mkdir -p "$records" && [ -w "$records" ] || { echo "gpu.sh: $records cannot be written: set RECORDS" >&2 && exit 2; }
    local work
    work=$(realpath -m "${WORK:-$(dirname "${BASH_SOURCE[0]}")/work}")
    if [ -n "$(ls -A "$work" 2>/dev/null)" ] && [ ! -e "$work/payload" ]; then
        echo "gpu.sh: $work holds other things: name an empty folder, or none" >&2
        exit 2
    fi
    cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
    # Another payload than the last time: nothing of that counts.
    if [ "$(cat "$work/payload" 2>/dev/null)" != "$(cksum <payload.tar.gz)" ]; then
        rm -rf "$work"
        mkdir -p "$work" || { echo "gpu.sh: set WORK and RECORDS to folders that can be written" >&2 && exit 2; }
        tar -C "$work" -xzf payload.tar.gz && cksum <payload.tar.gz >"$work/payload" || exit 1
    fi
    cd "$work" || exit 1
    finished=$PWD/finished
    touch "$finished"
    # No stand-in in its place, and why not.
    export QCONV_CUDA_TESTS=device
    find_driver
    preflight || return $?
    for part in $parts; do
        part "$part" "${models[@]}" || status=1
        SECONDS=0   # each has its own
    done
    return $status
}

# To its end before anything of it runs: nobody's changes to this file reach a call that is under way.
main() {
    case ${1:-} in
    pack) pack "${2:?a folder}" ;;
    tests | speed | llama | checks) run "$@" ;;
    run) shift && run "tests speed llama checks" "$@" ;;
    *)
        sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
    esac
}
main "$@"
exit
