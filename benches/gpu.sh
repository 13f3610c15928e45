#!/usr/bin/env bash
# What has to be seen on a real GPU, in two steps, since a machine with one may have no Rust:
#
#   benches/gpu.sh pack FOLDER       where Rust is: builds everything that is needed into FOLDER, to be copied over
#   FOLDER/gpu.sh run [MODEL...]     where the GPU is: runs it, and writes a record FOLDER/DATE-gpu-NAME.md
#
# `run` does, each step also when another has failed (or taken longer than STEP_SECONDS, 900):
#   1. every CUDA test on the device
#   2. the same under compute-sanitizer's memcheck and racecheck, if it is there
#   3. text and perplexity on the device against the processor's, with the small trained model; the text with its layers split
#   4. qconv bench on that model and on every MODEL (GGUF files: make them with `qconv convert`, for random weights of any
#      shape), with the times of single kernels
#   5. llama-bench on the same files, if LLAMA_BENCH names one, it is on the PATH, or LLAMA_CPP names llama.cpp's source and
#      CMake and nvcc are there to build it
# It ends with 0 only if every step succeeded. On the stand-in for the driver (LD_LIBRARY_PATH=target/cuda-on-cpu/none) it can be
# tried without a GPU; the record then says that its times are nobody's.
set -uo pipefail

pack() {
    set -e
    local out=$1
    mkdir -p "$out"
    out=$(cd "$out" && pwd)
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    local profile=${PROFILE:-release}
    cargo build --profile "$profile" --bin qconv
    local tests program
    tests=$(cargo test -p qconv-kernels --lib --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*qconv_kernels-[^"]*\)".*/\1/p' | tail -1)
    program=$(cargo build --profile "$profile" --bin qconv --message-format=json |
        sed -n 's/.*"executable":"\([^"]*qconv\)".*/\1/p' | tail -1)
    [ -x "$tests" ] && [ -x "$program" ]
    cp "$program" benches/gpu.sh "$out/"
    cp "$tests" "$out/cuda-tests"
    cp -r fixtures/models/prose-4m fixtures/texts/prose.txt "$out/"
    git rev-parse --short HEAD >"$out/commit"
    [ -z "$(git status --porcelain)" ] || echo "with changes that are not committed" >>"$out/commit"
    echo "now copy $out to the machine with the GPU and call $out/gpu.sh run"
}

# Runs a step, into the record: a heading, the command, the end of what it said, whether it succeeded.
step() {
    local title=$1 lines=$2
    shift 2
    echo "== $title" >&2
    {
        echo
        echo "## $title"
        echo
        echo '```text'
        echo "\$ $*"
    } >>"$record"
    local log status
    log=$(mktemp)
    timeout "${STEP_SECONDS:-900}" "$@" >"$log" 2>&1
    status=$?
    # Without what programs that think they have a terminal write to go back in a line.
    tr '\r' '\n' <"$log" | tail -n "$lines" >>"$record"
    echo '```' >>"$record"
    if [ $status -ne 0 ]; then
        failed+=("$title")
        printf '\n**Failed** with exit code %s%s.\n' $status "$([ $status -eq 124 ] && echo ': it took too long')" >>"$record"
        echo "   failed with exit code $status:" >&2
        tail -n 5 "$log" | sed 's/^/   /' >&2
    fi
    rm "$log"
}

# Notes what was not run, and why.
leave_out() {
    printf '\n%s: not run, %s.\n' "$1" "$2" >>"$record"
    echo "== $1: not run, $2" >&2
}

# The text that a backend writes, to be compared.
text() {
    timeout "${STEP_SECONDS:-900}" ./qconv run prose-4m -p "The " -n 48 --temp 0 -q "$@"
}

same_text() {
    local want got
    want=$(text --backend cpu) && got=$(text "$@") || return 1
    printf 'processor: %s\nhere:      %s\n' "$want" "$got"
    [ "$want" = "$got" ]
}

# llama-bench's path, built if its source is there. Errors: there is none.
llama_bench() {
    if [ -n "${LLAMA_BENCH:-}" ]; then
        echo "$LLAMA_BENCH"
    elif command -v llama-bench >/dev/null; then
        echo llama-bench
    elif [ -n "${LLAMA_CPP:-}" ] && command -v cmake nvcc >/dev/null; then
        cmake -S "$LLAMA_CPP" -B llama-build -DGGML_CUDA=ON -DLLAMA_CURL=OFF -DCMAKE_BUILD_TYPE=Release >llama-build.log 2>&1 &&
            timeout "${LLAMA_SECONDS:-1800}" cmake --build llama-build --target llama-bench -j "$(nproc)" >>llama-build.log 2>&1 &&
            echo ./llama-build/bin/llama-bench
    else
        return 1
    fi
}

run() {
    # Models may be named from where the caller is.
    local models=() model
    for model in "$@"; do models+=("$(realpath "$model")"); done
    cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
    local name
    name=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | head -1)
    [ -n "$name" ] || name="unknown card"
    record=$PWD/$(date +%F)-gpu-$(echo "$name" | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9-').md
    failed=()
    export QCONV_CUDA_TESTS=required
    {
        echo "# $name, $(date +%F)"
        echo
        echo "qconv at commit $(paste -sd ' ' commit). Made by benches/gpu.sh."
        echo
        if command -v nvidia-smi >/dev/null; then
            nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem --format=csv |
                sed 's/^/    /'
            echo
            echo "Other programs on the device while this ran: $(nvidia-smi --query-compute-apps=pid --format=csv,noheader | wc -l)."
        else
            echo "There is no nvidia-smi here: what card this is, and what else runs on it, is not known."
        fi
    } >"$record"
    step "The card" 12 ./qconv run prose-4m -p "The " -n 4 --temp 0 --backend cuda
    if tail -n 12 "$record" | grep -q "stand-in"; then
        printf '\n**This is the stand-in for the driver: no time below is that of a card.**\n' >>"$record"
    fi
    step "Tests on the device" 60 ./cuda-tests cuda::tests
    if command -v compute-sanitizer >/dev/null; then
        step "memcheck" 15 compute-sanitizer --tool memcheck --error-exitcode 9 ./cuda-tests cuda::tests
        step "racecheck" 15 compute-sanitizer --tool racecheck --error-exitcode 9 ./cuda-tests cuda::tests
    else
        leave_out "memcheck and racecheck" "compute-sanitizer is not on this machine"
    fi
    # Functions as steps: through a shell of their own.
    export -f text same_text
    step "The processor's text" 4 bash -c "same_text --backend cuda"
    step "The processor's text, split" 4 bash -c "same_text --backend cuda --gpu-layers 2"
    local type backend
    for type in q8_0 q4_k_m q4_0 q2_k; do
        step "Convert, $type" 4 ./qconv convert prose-4m -t $type -o small-$type.gguf --force -q
        for backend in cpu cuda; do
            step "Perplexity, $type, $backend" 8 ./qconv perplexity small-$type.gguf --file prose.txt -c 256 ${CHUNKS:+--chunks $CHUNKS} --backend $backend
        done
    done
    local bench
    bench=$(llama_bench) || leave_out "llama.cpp" "LLAMA_BENCH, LLAMA_CPP and the PATH have none that runs"
    models+=(small-q8_0.gguf small-q4_k_m.gguf)
    for model in "${models[@]}"; do
        step "Speed: $(basename "$model")" 20 ./qconv bench "$model" -p "${PROMPT:-512}" -n "${TOKENS:-128}" -r "${REPETITIONS:-5}" --backend cuda
        step "Kernels: $(basename "$model")" 60 ./qconv bench "$model" -p "${PROMPT:-512}" -n 32 -r 1 --backend cuda --kernels
        if [ -n "$bench" ]; then
            step "llama.cpp: $(basename "$model")" 12 "$bench" -m "$model" -p "${PROMPT:-512}" -n "${TOKENS:-128}" -r "${REPETITIONS:-5}" -ngl 99 -fa 1
        fi
    done
    printf '\n%s steps failed%s\n' "${#failed[@]}" "$([ ${#failed[@]} -gt 0 ] && printf ': %s' "$(printf '%s; ' "${failed[@]}")" || echo .)" >>"$record"
    echo "$record: ${#failed[@]} steps failed"
    [ ${#failed[@]} -eq 0 ]
}

case ${1:-} in
pack) pack "${2:?a folder}" ;;
run) shift && run "$@" ;;
*)
    sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
