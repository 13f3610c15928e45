#!/usr/bin/env bash
# What has to be seen on a real GPU, in two steps, since a machine with one may have no Rust:
#
#   benches/gpu.sh pack FOLDER       where Rust is: builds everything that is needed into FOLDER, to be copied over
#   FOLDER/gpu.sh run [MODEL...]     where the GPU is: runs it, and writes a record FOLDER/DATE-gpu-NAME.md
#
# `run` does, each step also when another has failed:
#   1. every CUDA test on the device
#   2. the same under compute-sanitizer's memcheck and racecheck, if it is there
#   3. text and perplexity on the device against the processor's, with the small trained model
#   4. qconv bench on that model and on every MODEL (GGUF files: make them with `qconv convert`, for random weights of any
#      shape), with the times of single kernels
#   5. llama-bench on the same files, if LLAMA_BENCH names one or it is on the PATH
set -uo pipefail

pack() {
    set -e
    local out=$1
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    mkdir -p "$out"
    cargo build --release --bin qconv
    local tests
    tests=$(cargo test -p qconv-kernels --lib --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*qconv_kernels-[^"]*\)".*/\1/p' | tail -1)
    cp target/release/qconv benches/gpu.sh "$out/"
    cp "$tests" "$out/cuda-tests"
    cp -r fixtures/models/prose-4m fixtures/texts/prose.txt "$out/"
    git rev-parse --short HEAD >"$out/commit"
    cp kernels/src/cuda/images/*.txt "$out/" 2>/dev/null || true
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
    "$@" >"$log" 2>&1
    status=$?
    tail -n "$lines" "$log" >>"$record"
    {
        echo '```'
        if [ $status -ne 0 ]; then
            echo
            echo "**Failed** with exit code $status."
            failed=$((failed + 1))
        fi
    } >>"$record"
    rm "$log"
}

run() {
    cd "$(dirname "${BASH_SOURCE[0]}")" || exit 1
    local name
    name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) || exit 1
    record=$PWD/$(date +%F)-gpu-$(echo "$name" | tr 'A-Z ' 'a-z-').md
    failed=0
    export QCONV_CUDA_TESTS=required
    {
        echo "# $name, $(date +%F)"
        echo
        echo "qconv at commit $(cat commit). Made by benches/gpu.sh."
        echo
        nvidia-smi --query-gpu=name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.mem --format=csv |
            sed 's/^/    /'
        echo
        echo "Other programs on the device while this ran: $(nvidia-smi --query-compute-apps=pid --format=csv,noheader | wc -l)."
    } >"$record"
    step "Tests on the device" 60 ./cuda-tests cuda::tests
    if command -v compute-sanitizer >/dev/null; then
        step "memcheck" 15 compute-sanitizer --tool memcheck --error-exitcode 9 ./cuda-tests cuda::tests
        step "racecheck" 15 compute-sanitizer --tool racecheck --error-exitcode 9 ./cuda-tests cuda::tests
    else
        printf '\ncompute-sanitizer is not on this machine: not run.\n' >>"$record"
    fi
    local q=./qconv small=prose-4m
    for backend in cpu cuda; do
        step "Text, $backend" 12 $q run $small -p "The " -n 48 --temp 0 --backend $backend
    done
    for type in q8_0 q4_k_m q4_0 q2_k; do
        $q convert $small -t $type -o small-$type.gguf --force -q || failed=$((failed + 1))
        for backend in cpu cuda; do
            step "Perplexity, $type, $backend" 8 $q perplexity small-$type.gguf --file prose.txt -c 256 --backend $backend
        done
    done
    local models=("$@" small-q8_0.gguf small-q4_k_m.gguf)
    for model in "${models[@]}"; do
        step "Speed: $model" 20 $q bench "$model" -p 512 -n 128 -r 5 --backend cuda --markdown
        step "Kernels: $model" 60 $q bench "$model" -p 512 -n 32 -r 1 --backend cuda --kernels
        if command -v "${LLAMA_BENCH:-llama-bench}" >/dev/null; then
            step "llama.cpp: $model" 12 "${LLAMA_BENCH:-llama-bench}" -m "$model" -p 512 -n 128 -r 5 -ngl 99 -fa 1
        fi
    done
    printf '\n%s steps failed.\n' "$failed" >>"$record"
    echo "$record: $failed steps failed"
    [ "$failed" -eq 0 ]
}

case ${1:-} in
pack) pack "${2:?a folder}" ;;
run) shift && run "$@" ;;
*)
    sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
