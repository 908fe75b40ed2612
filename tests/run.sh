#!/usr/bin/env bash
# Sets up .venv and runs the test suite: bash tests/run.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts_visatb/setup.sh
set_up
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
exec python -m pytest --numprocesses="${TEST_PROCESSES:-2}" --dist loadfile -q "$@"
