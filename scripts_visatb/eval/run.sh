# Sourced by the benchmarks' scripts: asks and scores one benchmark with llava.eval.suite, on all visible GPUs or on the
# CPU. Everything is set from the environment; flags given to the script come last and win. docs/evaluation.md describes
# the variables.

case " $* " in *" --help "* | *" -h "*)
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0"
    echo "variables: CKPT (required), MODEL_BASE, MODEL_NAME, CONV_MODE, SPLIT, EVAL_DATA (playground/data/eval),
EVAL_OUTPUT (EVAL_DATA), METRICS_FOLDER (EVAL_OUTPUT/metrics), BASELINE, TEMPERATURE (0), BATCH_SIZE (16),
NUM_PROCESSES (one for each GPU), JUDGE_MODEL, PYTHON (python)"
    exit 0
    ;;
esac

if [ -z "${CKPT:-}" ]; then
    echo "error: CKPT must be the model, and is not set. Example: set CKPT to checkpoints/my-model" >&2
    exit 2
fi

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
