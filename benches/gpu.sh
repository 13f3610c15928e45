#!/usr/bin/env bash
# What has to be seen on a real GPU, in two steps, since a machine with one may have no Rust and no network:
#
#   benches/gpu.sh pack FOLDER        where Rust is: builds everything that is needed into FOLDER (some 30 MB), to be copied over
#   FOLDER/gpu.sh PART [MODEL...]     where the GPU is: one of three parts, or `run` for all of them. Writes a record
#                                     DATE-gpu-NAME-PART.md into RECORDS (or FOLDER), step by step as they end
#
#   tests    does it compute rightly: every CUDA test on the device, each in a process of its own; text and perplexity on the device
#            against the processor's, with the small trained model; the text with its layers split
#   speed    qconv bench on models of Llama-3.2-1B's and Llama-3-8B's shapes with random weights, made on the spot, and on every
#            MODEL, with the times of single kernels; llama-bench on the same files, if LLAMA_BENCH names one, it is on the
#            PATH, or LLAMA_CPP names llama.cpp's source and CMake and nvcc are there to build it; generation with other
#            constants than the built-in ones (SWEEP: the model's file, by default the smaller shape's in Q4_K_M)
#   checks   the tests under compute-sanitizer's memcheck and racecheck, if it is there
#
# A part takes PART_SECONDS (530) at most: a step has what is left of that, or STEP_SECONDS (150) if that is less, and is killed
# then; what the time did not suffice for is named. A step that has succeeded is not repeated: call the part again for
# those that are left. (What was done, and the models, lie in WORK, a folder of its own, or FOLDER/work.) ONLY='a regular expression'
# takes the steps with such titles, done or not.
# It ends with 0 only if every step succeeded. On the stand-in for the driver (LD_LIBRARY_PATH=$PWD/target/cuda-on-cpu/none) it can be
# tried without a GPU (SHAPES=mini makes it bearable); the record then says that its times are nobody's.
set -uo pipefail

pack() {
    set -e
    local out=$1
    mkdir -p "$out"
    out=$(cd "$out" && pwd)
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    local profile=${PROFILE:-release}
    cargo build --profile "$profile" --bin qconv
    local tests program payload
    tests=$(cargo test -p qconv-kernels --lib --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*qconv_kernels-[^"]*\)".*/\1/p' | tail -1)
    program=$(cargo build --profile "$profile" --bin qconv --message-format=json |
        sed -n 's/.*"executable":"\([^"]*qconv\)".*/\1/p' | tail -1)
    [ -x "$tests" ] && [ -x "$program" ]
    payload=$(mktemp -d)
    # Without symbols: they are three quarters of the bytes.
    strip -s -o "$payload/qconv" "$program"
    strip -s -o "$payload/cuda-tests" "$tests"
    cp -r fixtures/models/prose-4m fixtures/texts/prose.txt benches/random_checkpoint.py "$payload/"
    # Kernels of other constants, for the sweep: how many blocks of a single token's product a multiprocessor should hold.
    local resident
    for resident in ${RESIDENT:-4 5 7 8}; do
        kernels/cuda/build.py --to "$payload/resident-$resident" "-DMATVEC_RESIDENT=$resident" matvec
    done
    git rev-parse --short HEAD >"$payload/commit"
    [ -z "$(git status --porcelain)" ] || echo "with changes that are not committed" >>"$payload/commit"
    tar -C "$payload" -czf "$out/payload.tar.gz" .
    rm -r "$payload"
    cp benches/gpu.sh "$out/"
    echo "now copy $out ($(du -sh "$out" | cut -f1)) to the machine with the GPU and call $out/gpu.sh tests there"
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

# Runs a step, into the record: a heading, the command, the end of what it said, whether it succeeded. LIMIT: its own limit.
step() {
    local title=$1 lines=$2 limit log status began
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
    timeout -k 5 "$limit" "$@" >"$log" 2>&1
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
    return $status
}

# Every test in a process of its own: a fault of the device ends one, and leaves the others. LIMIT seconds each, one line in the record
# for those that pass. Arguments: a title, and what to run the tests under.
each_test() {
    local title=$1 test limit log status began good=0 bad=0 begun=""
    shift
    log=$(mktemp)
    # Not those that read the sources; the largest last.
    for test in $(./cuda-tests --list cuda::tests 2>/dev/null | sed -n 's/: test$//p' | grep -v codebooks | grep -v in_every_format) \
        cuda::tests::engine::embeddings_in_every_format cuda::tests::engine::products_in_every_format; do
        wanted "$title: $test" || continue
        limit=$(seconds_for_a_step "${LIMIT:-}")
        if [ "$limit" -lt 5 ]; then
            late+=("$title: $test")
            continue
        fi
        [ -n "$begun" ] || printf '\n## %s\n\n```text\n$ %s./cuda-tests --exact NAME\n' "$title" "${*:+$* }" >>"$record"
        begun=yes
        began=$SECONDS
        timeout -k 5 "$limit" "$@" ./cuda-tests --exact "$test" --test-threads=1 >"$log" 2>&1
        status=$?
        # A name that matches nothing is no test that passed.
        if [ $status -eq 0 ] && grep -q "^test result: ok. 1 passed" "$log"; then
            good=$((good + 1))
            echo "$title: $test" >>"$finished"
            echo "ok      $((SECONDS - began)) s  $test" >>"$record"
        else
            bad=$((bad + 1))
            echo "FAILED  $((SECONDS - began)) s  $test (exit code $status$([ $status -eq 124 ] && echo ', too long'))" | tee -a "$record" >&2
            grep -vE '^ *(at |[0-9]+: )' "$log" | tail -n 25 | sed 's/^/        /' >>"$record"
        fi
    done
    rm "$log"
    [ -n "$begun" ] || return 0
    printf '```\n%s passed, %s failed.\n' $good $bad >>"$record"
    echo "== $title: $good passed, $bad failed" >&2
    [ $bad -eq 0 ] || failed+=("$title")
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

# A model of a shape, with random weights, in some types.
make_models() {
    local shape=$1 type
    shift
    [ -e "$shape/model.safetensors" ] || ./random_checkpoint.py "$shape" "$shape" prose-4m || return 1
    for type in "$@"; do
        [ -e "$shape-$type.gguf" ] || ./qconv convert "$shape" -t "$type" -o "$shape-$type.gguf" -q || return 1
    done
    rm -r "$shape"
    ls -l "$shape"-*.gguf
}

# llama-bench's path, built if its source is there. Errors: there is none.
llama_bench() {
    if [ -n "${LLAMA_BENCH:-}" ]; then
        echo "$LLAMA_BENCH"
    elif command -v llama-bench >/dev/null; then
        echo llama-bench
    elif [ -x llama-build/bin/llama-bench ]; then
        echo ./llama-build/bin/llama-bench
    elif [ -n "${LLAMA_CPP:-}" ] && command -v cmake >/dev/null && command -v nvcc >/dev/null; then
        cmake -S "$LLAMA_CPP" -B llama-build -DGGML_CUDA=ON -DLLAMA_CURL=OFF -DCMAKE_BUILD_TYPE=Release \
            -DCMAKE_CUDA_ARCHITECTURES=native >llama-build.log 2>&1 &&
            timeout "${LLAMA_SECONDS:-1800}" cmake --build llama-build --target llama-bench -j "$(nproc)" >>llama-build.log 2>&1 &&
            echo ./llama-build/bin/llama-bench
    else
        return 1
    fi
}

tests() {
    LIMIT=60 step "The card" 12 ./qconv run prose-4m -p "The " -n 4 --temp 0 --backend cuda
    LIMIT=${TEST_SECONDS:-90} each_test "Tests on the device"
    # Functions as steps: through a shell of their own.
    export -f text same_text same_perplexity
    step "The processor's text" 4 bash -c "same_text --backend cuda"
    step "The processor's text, split" 4 bash -c "same_text --backend cuda --gpu-layers 2"
    local type
    for type in ${TYPES:-q8_0 q4_k_m q4_0 q2_k bf16}; do
        step "Perplexity, $type" 8 bash -c "same_perplexity $type"
    done
}

speed() {
    local models=("$@") shape type bench model
    export -f make_models
    bench=$(llama_bench) || { bench="" && leave_out "llama.cpp" "LLAMA_BENCH, LLAMA_CPP and the PATH have none that runs"; }
    for shape in ${SHAPES:-llama-3.2-1b llama-3-8b}; do
        local types=(q4_k_m q8_0)
        [ "$shape" = llama-3-8b ] || types+=(bf16)
        LIMIT=300 step "Make $shape" 8 bash -c "make_models $shape ${types[*]}"
        for type in "${types[@]}"; do measure "$shape-$type.gguf"; done
    done
    for model in "${models[@]}"; do measure "$model"; done
    export -f sweep
    local smallest=${SHAPES:-llama-3.2-1b}
    LIMIT=200 step "Constants" 16 bash -c "sweep ${SWEEP:-${smallest%% *}-q4_k_m.gguf}"
    # What costs more time, behind all that is wanted first.
    for shape in ${SHAPES:-llama-3.2-1b llama-3-8b}; do
        step "Long context: $shape" 12 ./qconv bench "$shape-q4_k_m.gguf" -p 0 -n "${TOKENS:-128}" -d "${DEPTH:-4096}" -r 2 --backend cuda
        step "Side by side: $shape" 12 ./qconv bench "$shape-q4_k_m.gguf" -p 0 -n "${TOKENS:-128}" --parallel 4,16 -r 2 --backend cuda
    done
}

# Tokens a second with other constants, each in a line: warps that a single token's products should have, blocks of them that a
# multiprocessor should hold. The first and the last line are as built: what differs between these is chance.
sweep() {
    local model=$1 setting speed
    for setting in "" QCONV_CUDA_WARPS={1,3168,6336,25344,1000000} $(ls -d "$PWD"/resident-* 2>/dev/null | sed 's/^/QCONV_CUDA_IMAGES=/') ""; do
        speed=$(env $setting ./qconv bench "$model" -p 0 -n "${TOKENS:-128}" -r 2 --backend cuda --json 2>sweep.log |
            sed -n 's/.*"tokens_per_second": *\([0-9.]*\).*/\1/p' | head -1)
        [ -n "$speed" ] || { cat sweep.log && return 1; }
        LC_ALL=C printf '%-40s %10.1f tokens/s\n' "$(echo "${setting:-as built}" | sed "s|=$PWD/|=|")" "$speed"
    done
}

# The speed of a model, and of llama.cpp with it.
measure() {
    local model=$1 name
    name=$(basename "$model")
    [ -e "$model" ] || { leave_out "Speed: $name" "the file is not there" && return; }
    step "Speed: $name" 12 ./qconv bench "$model" -p "${PROMPT:-512}" -n "${TOKENS:-128}" -r "${REPETITIONS:-3}" --backend cuda
    step "Kernels: $name" 60 ./qconv bench "$model" -p "${PROMPT:-512}" -n "${KERNEL_TOKENS:-32}" -r 1 --backend cuda --kernels
    if [ -n "$bench" ]; then
        step "llama.cpp: $name" 12 "$bench" -m "$model" -p "${PROMPT:-512}" -n "${TOKENS:-128}" -r "${REPETITIONS:-3}" -ngl 99 -fa 1
    fi
}

checks() {
    command -v compute-sanitizer >/dev/null || { leave_out "memcheck and racecheck" "compute-sanitizer is not on this machine" && return; }
    # Calls that fail are no faults: the program asks for kernels that may not be there, and the tests for what is refused.
    local tool
    for tool in memcheck racecheck; do
        LIMIT=${CHECK_SECONDS:-100} each_test $tool compute-sanitizer --tool $tool --report-api-errors no --error-exitcode 9
    done
}

# A part, from the record's head to its end.
part() {
    local part=$1 name
    shift
    SECONDS=0
    name=$(timeout 20 nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
    [ -n "$name" ] || name="unknown card"
    record=$records/$(date +%F)-gpu-$(echo "$name" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-')-$part.md
    failed=()
    late=()
    [ -e "$record" ] || {
        echo "# $name, $(date +%F): $part"
        echo
        echo "qconv at commit $(paste -sd ' ' commit). Made by benches/gpu.sh."
        echo
        if command -v nvidia-smi >/dev/null; then
            timeout 20 nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem --format=csv |
                sed 's/^/    /'
            echo
            echo "Other programs on the device when this began: $(timeout 20 nvidia-smi --query-compute-apps=pid --format=csv,noheader | wc -l)."
        else
            echo "There is no nvidia-smi here: what card this is, and what else runs on it, is not known."
        fi
        if timeout 60 ./qconv run prose-4m -p x -n 1 --backend cuda 2>&1 | grep -q stand-in; then
            printf '\n**This is the stand-in for the driver: no time below is that of a card.**\n'
        fi
    } >>"$record"
    "$part" "$@"
    {
        echo
        echo "${#failed[@]} steps failed, ${#late[@]} had no time left."
        [ ${#failed[@]} -eq 0 ] || printf -- '- failed: %s\n' "${failed[@]}"
        [ ${#late[@]} -eq 0 ] || printf -- '- no time left: %s\n' "${late[@]}"
    } >>"$record"
    echo "$record: ${#failed[@]} steps failed, ${#late[@]} had no time left ($SECONDS s)"
    [ $((${#failed[@]} + ${#late[@]})) -eq 0 ]
}

run() {
    local parts=$1 model models=() status=0
    shift
    # Models may be named from where the caller is.
    for model in "$@"; do models+=("$(realpath "$model")"); done
    records=$(realpath "${RECORDS:-$(dirname "${BASH_SOURCE[0]}")}")
    mkdir -p "$records"
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
        mkdir -p "$work" && tar -C "$work" -xzf payload.tar.gz && cksum <payload.tar.gz >"$work/payload" || exit 1
    fi
    cd "$work" || exit 1
    finished=$PWD/finished
    touch "$finished"
    # No stand-in in its place, and why not.
    export QCONV_CUDA_TESTS=device
    for part in $parts; do part "$part" "${models[@]}" || status=1; done
    return $status
}

case ${1:-} in
pack) pack "${2:?a folder}" ;;
tests | speed | checks) run "$@" ;;
run) shift && run "tests speed checks" "$@" ;;
*)
    sed -n '2,20s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
