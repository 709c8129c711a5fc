#!/usr/bin/env bash
# Everything that needs a CUDA device, in one command and within 7.5 minutes, from a checkout with nothing installed: see
# bench/gpu.py. A copy without its history, or in an older checkout, names its commit: LMFAST_COMMIT=abc1234 bash bench/gpu.sh
cd "$(dirname "$0")/.." || exit
export PYTHONPATH="$PWD:$PWD/kernels${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m bench.gpu "$@"
