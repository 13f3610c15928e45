#!/usr/bin/env bash
# Runs the CUDA tests on the CPU under a sanitizer: sanitize.sh address|thread|rounding [filter]
#   address:  address and undefined-behaviour sanitizers: overruns of device and shared memory, misaligned loads
#   thread:   the race detector: missing barriers within a block
#   rounding: no sanitizer, but kernels that round where a device may: results that hold for one order of operations alone
set -euo pipefail
cd "$(dirname "$0")/../.."
case ${1:-} in
address) runtime=libasan.so ;;
thread) runtime=libtsan.so ;;
rounding) runtime= ;;
*)
    sed -n '2,5s/^# //p' "$0" >&2
    exit 2
    ;;
esac
compiler=${CXX:-g++}
library=${runtime:+$("$compiler" -print-file-name="$runtime")}
# The test program is not instrumented, so the runtime has to be there before it begins; leaks are Rust's own business, and
# what Rust does between its threads is invisible to the race detector.
target=$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)
[ -z "$library" ] || export "CARGO_TARGET_${target}_RUNNER=env LD_PRELOAD=$library"
export ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0
export TSAN_OPTIONS=ignore_noninstrumented_modules=1:halt_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1
export QCONV_CUDA_SANITIZE=$1 QCONV_CUDA_TESTS=stand-in QCONV_CUDA_ORDER=${QCONV_CUDA_ORDER:-1}
# Without -p: the test programs that `cargo test` has built already, where a package alone would be compiled anew, with its own features.
cargo test --quiet --lib "cuda::tests::${2:-}" -- --test-threads=1
