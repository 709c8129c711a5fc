#!/usr/bin/env bash
# Everything that wants a CUDA device, in one go and in under nine minutes, from a checkout with nothing installed. What it
# does, and its arguments: bench/gpu.py. A checkout without its history says its commit: LMFAST_COMMIT=abc1234 bash bench/gpu.sh
cd "$(dirname "$0")/.." || exit
export PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" -m bench.gpu "$@"
