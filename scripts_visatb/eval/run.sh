# Sourced by the benchmarks' scripts: asks and scores one benchmark with llava.eval.suite, on all visible GPUs or on the
# CPU. Everything is set from the environment; flags given to the script come last and win. docs/evaluation.md describes
# the variables.

source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
answer_help "$0" "visatb suite --help" "$@"
require CKPT "the model" checkpoints/my-model

HOME_OF_EVAL="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export PYTHONPATH="$HOME_OF_EVAL${PYTHONPATH:+:$PYTHONPATH}"

run_benchmark() {
    local flags=(
        --benchmarks="$1"
        --model-path="$CKPT"
        --data="${EVAL_DATA:-playground/data/eval}"
        --temperature="${TEMPERATURE:-0}"
        --batch-size="${BATCH_SIZE:-16}"
    )
    shift
    [ -z "${MODEL_BASE:-}" ] || flags+=(--model-base="$MODEL_BASE")
    [ -z "${MODEL_NAME:-}" ] || flags+=(--model-name="$MODEL_NAME")
    [ -z "${CONV_MODE:-}" ] || flags+=(--conv-mode="$CONV_MODE")
    [ -z "${SPLIT:-}" ] || flags+=(--split="$SPLIT")
    [ -z "${EVAL_OUTPUT:-}" ] || flags+=(--output="$EVAL_OUTPUT")
    [ -z "${METRICS_FOLDER:-}" ] || flags+=(--metrics-folder="$METRICS_FOLDER")
    [ -z "${BASELINE:-}" ] || flags+=(--baseline="$BASELINE")
    [ -z "${NUM_PROCESSES:-}" ] || flags+=(--processes="$NUM_PROCESSES")
    [ -z "${JUDGE_MODEL:-}" ] || flags+=(--judge-model="$JUDGE_MODEL")
    exec "${PYTHON:-python}" -m llava.eval.suite "${flags[@]}" "$@"
}
