#!/usr/bin/env bash
# Everything about kernels/ that wants a CUDA device, in one go, from a checkout: right or wrong, and how fast
# beside peers; then what the compiler made of them for sm_90. Results land in runs/. Arguments go to kernels.check
# (--only attention, --resume). The second part needs no GPU and is short where Triton's cache holds it.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p runs
status=0
python3 -m kernels.check --json runs/kernels_check.json "$@" || status=$?
python3 -m kernels.aot --arch sm_90 --json runs/kernels_aot.json >runs/kernels_aot.txt || status=1
tail -n 1 runs/kernels_aot.txt
exit $status
