# Sourced by the training scripts: starts llava/train/train_mem.py (or `entry`, if the script sets it) with the flags
# given, by `deepspeed` where there are GPUs and by plain Python where there are none. bf16 and tf32 are used on GPUs only.
# docs/distributed.md has examples.
#
#   NUM_GPUS         GPUs of this node; all visible ones by default, 0 for the CPU
#   NUM_PROCESSES    without GPUs: processes of this node, over gloo; 1 by default
#   LAUNCHER         deepspeed (default with GPUs), torchrun (default with NNODES and for CPU processes), or srun: this
#                    process is one rank already, as Slurm's srun starts them
#   HOSTFILE         several nodes by deepspeed, which reaches them by ssh: its file of nodes and GPUs
#   NNODES NODE_RANK MASTER_ADDR MASTER_PORT    several nodes by torchrun, the same command on each of them
#   TF32             True by default; False for GPUs before Ampere
#   DEEPSPEED_CONFIG DeepSpeed configuration, scripts_visatb/zero3.json by default; none for DDP without DeepSpeed
#   PYTHON           interpreter, `python` by default

SCRIPTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
export PYTHONPATH="$(dirname "$SCRIPTS")${PYTHONPATH:+:$PYTHONPATH}"

source "$SCRIPTS/common.sh"
answer_help "$0" "${more_flags:-visatb train --help}" "$@"

visible_gpus() {
    if [ "${CUDA_VISIBLE_DEVICES-unset}" = "" ] || [ "${CUDA_VISIBLE_DEVICES:-}" = "-1" ] ||
        ! command -v nvidia-smi >/dev/null 2>&1; then
        echo 0
    elif [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
        printf '%s\n' "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | wc -l
    else
        nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true
    fi
}

# VARIABLE...: those that are set must be whole numbers.
require_numbers() {
    local name
    for name in "$@"; do
        [[ -z "${!name:-}" || "${!name}" =~ ^[0-9]{1,9}$ ]] ||
            refuse "$name must be a whole number, got $(shown "${!name}"). Change it or leave it out."
    done
}

# Ends in `exec`: signals from Slurm or a batch script then reach the process that must save.
launch_training() {
    require_numbers NUM_GPUS NUM_PROCESSES NNODES NODE_RANK MASTER_PORT
    # DeepSpeed inserts it into the command that a shell on each node runs.
    [[ -z "${MASTER_ADDR:-}" || "$MASTER_ADDR" =~ ^[A-Za-z0-9_.:][A-Za-z0-9_.:-]*$ ]] ||
        refuse "MASTER_ADDR must be a host name or address, got $(shown "$MASTER_ADDR"). Change it."
    local entry="$(dirname "$SCRIPTS")/${entry:-llava/train/train_mem.py}"
    local visible="$(visible_gpus)"
    local gpus="${NUM_GPUS:-$visible}"
    local launcher="${LAUNCHER:-}"
    if [ -z "$launcher" ]; then
        launcher=torchrun
        [ "$gpus" -eq 0 ] || [ "${NNODES:-1}" -gt 1 ] || launcher=deepspeed
        [ -z "${HOSTFILE:-}" ] || launcher=deepspeed
    fi
    [ "$gpus" -le "$visible" ] || [ -n "${HOSTFILE:-}" ] ||
        refuse "NUM_GPUS must be at most $visible, the GPUs that are visible, got $gpus. Set it to 0 for the CPU."
    if [ "$gpus" -gt 0 ] || [ -n "${HOSTFILE:-}" ]; then
        [ -z "${NUM_PROCESSES:-}" ] ||
            refuse "NUM_PROCESSES must be unset where GPUs are used, got $NUM_PROCESSES. Set NUM_GPUS in its place, or to 0."
        [ "${DEEPSPEED_CONFIG:-}" = none ] || set -- --deepspeed="${DEEPSPEED_CONFIG:-$SCRIPTS/zero3.json}" "$@"
        set -- --bf16 True --tf32="${TF32:-True}" "$@"
    elif [ "${NUM_GPUS:-}" = 0 ]; then
        # The CPU was requested: torch would use visible GPUs nevertheless.
        export CUDA_VISIBLE_DEVICES=""
    fi
    case "$launcher" in
    deepspeed) launch_deepspeed "$gpus" "$entry" "$@" ;;
    torchrun) launch_torchrun "$gpus" "$entry" "$@" ;;
    srun) launch_rank "$entry" "$@" ;;
    *) refuse "LAUNCHER must be deepspeed, torchrun or srun, got $(shown "$launcher"). Choose one." ;;
    esac
}

launch_deepspeed() {
    local gpus="$1" choice=() word
    shift
    if [ -n "${HOSTFILE:-}" ]; then
        [ -f "$HOSTFILE" ] ||
            refuse "HOSTFILE must be a file, got $(shown "$HOSTFILE"). Write a line such as 'node1 slots=8' for each node."
        for word in "$@"; do # DeepSpeed quotes what has a space, no more, for the shell of each node
            [[ "$word" != *[![:alnum:]_@+=:,./\ -]* ]] ||
                refuse "$(shown "$word") must hold no signs of a shell with HOSTFILE. Rename it, or set LAUNCHER=torchrun."
        done
        choice=(--hostfile="$HOSTFILE" ${NUM_GPUS:+--num_gpus "$NUM_GPUS"} ${MASTER_ADDR:+--master_addr "$MASTER_ADDR"})
    else
        [ "${NNODES:-1}" -eq 1 ] || refuse "several nodes by deepspeed need HOSTFILE. Set it, or LAUNCHER=torchrun."
        [ "$gpus" -gt 0 ] || refuse "LAUNCHER=deepspeed needs a GPU, and none is visible. Use LAUNCHER=torchrun."
        # DeepSpeed's launcher forgets CUDA_VISIBLE_DEVICES when it is given --num_gpus, and takes the first GPUs.
        choice=(--num_gpus "$gpus")
        [ -z "${CUDA_VISIBLE_DEVICES:-}" ] ||
            choice=(--include "localhost:$(printf '%s\n' "$CUDA_VISIBLE_DEVICES" | cut -d, -f "1-$gpus")")
    fi
    exec deepspeed "${choice[@]}" ${MASTER_PORT:+--master_port "$MASTER_PORT"} "$@"
}

launch_torchrun() {
    local processes="$1" nodes="${NNODES:-1}" choice=(--standalone)
    shift
    [ "$processes" -gt 0 ] || processes="${NUM_PROCESSES:-1}"
    if [ "$nodes" -gt 1 ]; then
        require NODE_RANK "the number of this node, from 0" 0
        require MASTER_ADDR "the address of node 0" node1
        choice=(--nnodes "$nodes" --node_rank "$NODE_RANK")
        choice+=(--master_addr "$MASTER_ADDR" --master_port "${MASTER_PORT:-29500}")
    elif [ "$processes" -eq 1 ] && [ -z "${LAUNCHER:-}" ]; then
        exec "${PYTHON:-python}" "$@"
    fi
    # torchrun kills processes that have not ended 30 s after a SIGTERM; a checkpoint of a large model takes longer.
    export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-600}"
    exec "${PYTHON:-python}" -m torch.distributed.run "${choice[@]}" --nproc_per_node "$processes" "$@"
}

launch_rank() {
    [ -n "${SLURM_PROCID:-}" ] || refuse "LAUNCHER=srun is for commands that srun starts. Start it by srun, or unset it."
    require MASTER_ADDR "the first node of the job" node1
    export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS"
    export MASTER_PORT="${MASTER_PORT:-29500}"
    exec "${PYTHON:-python}" "$@"
}
