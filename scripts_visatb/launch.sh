# Sourced by the training scripts: starts llava/train/train_mem.py with the flags given, by `deepspeed` where there are
# GPUs and by plain Python where there are none. bf16 and tf32 are used on GPUs only.
#
#   NUM_GPUS         GPUs of this node; all visible ones by default, 0 for the CPU
#   TF32             True by default; False for GPUs before Ampere
#   DEEPSPEED_CONFIG DeepSpeed configuration, scripts_visatb/zero3.json by default
#   PYTHON           interpreter for CPU runs, `python` by default

SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export PYTHONPATH="$(dirname "$SCRIPTS")${PYTHONPATH:+:$PYTHONPATH}"

visible_gpus() {
    if [ "${CUDA_VISIBLE_DEVICES-unset}" = "" ] || [ "${CUDA_VISIBLE_DEVICES:-}" = "-1" ] ||
        ! command -v nvidia-smi >/dev/null 2>&1; then
        echo 0
    elif [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
        echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | wc -l
    else
        nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true
    fi
}

launch_training() {
    local entry="$(dirname "$SCRIPTS")/llava/train/train_mem.py"
    local gpus="${NUM_GPUS:-$(visible_gpus)}"
    if [ "$gpus" -gt 0 ]; then
        if [ "$(visible_gpus)" -lt "$gpus" ]; then
            echo "error: NUM_GPUS must be at most $(visible_gpus), the GPUs that are visible, got $gpus. Set it to 0 for the CPU." >&2
            exit 2
        fi
        # DeepSpeed's launcher forgets CUDA_VISIBLE_DEVICES when it is given --num_gpus, and takes the first GPUs.
        local choice=(--num_gpus "$gpus")
        [ -z "${CUDA_VISIBLE_DEVICES:-}" ] ||
            choice=(--include "localhost:$(echo "$CUDA_VISIBLE_DEVICES" | cut -d, -f "1-$gpus")")
        deepspeed "${choice[@]}" "$entry" --deepspeed "${DEEPSPEED_CONFIG:-$SCRIPTS/zero3.json}" \
            --bf16 True --tf32 "${TF32:-True}" "$@"
    else
        # Told to leave the GPUs alone: torch would take them nevertheless.
        [ "${NUM_GPUS:-}" != 0 ] || export CUDA_VISIBLE_DEVICES=""
        "${PYTHON:-python}" "$entry" "$@"
    fi
}
