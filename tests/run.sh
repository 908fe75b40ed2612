#!/usr/bin/env bash
# Sets up .venv and .venv-hf and runs the test suite: bash tests/run.sh [pytest arguments]
#
#   bash tests/run.sh                       everything
#   bash tests/run.sh tests/unit/eval       a part of it
#   bash tests/run.sh tests/hf              the tests of visatb_hf, in their own environment
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts_visatb/setup.sh
answer_help tests/run.sh "pytest --help" "$@"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

# Files in their order: the longest come first, and no process is left alone with one at the end.
run_tests() {
    "$1/bin/python" -m pytest --numprocesses="${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder -q "${@:2}"
}

case " $*" in
*" tests/hf"*)
    set_up_hf
    HF_HUB_OFFLINE=1 run_tests .venv-hf "$@"
    ;;
*)
    set_up
    [ $# -gt 0 ] || set_up_hf
    run_tests .venv "$@"
    [ $# -gt 0 ] || HF_HUB_OFFLINE=1 run_tests .venv-hf tests/hf
    ;;
esac
