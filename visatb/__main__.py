"""The `visatb` command: one name for each of the programs, whose `main` is imported when it is called.

`visatb NAME ...` and `python -m visatb NAME ...` take the flags of the program itself; the programs keep their own
addresses (`python -m llava.train.train`, `python inference_visatb.py`, ...).
"""

import sys
from importlib import import_module

from visatb.cli import ArgumentParser, run
from visatb.errors import InputError, shown

_EXAMPLE = """examples:
  visatb run --benchmark scripts_visatb/benchmarks/demo.yaml --cores 2
  python -m visatb weigh --help"""
# Heading -> name -> (module, what it does). `show` and `score` choose within their module.
COMMANDS = {
    "the whole method": {
        "show": ("scripts_visatb.workflow.cost", "list benchmarks; samples, steps and cost of a run"),
        "run": ("scripts_visatb.workflow.run", "run all five steps, or resume them"),
        "status": ("scripts_visatb.workflow.status", "how far a run is, what failed, time left"),
        "look": ("scripts_visatb.workflow.look", "a page of answers in which VisATB and equal weights differ"),
        "study": ("scripts_visatb.study", "repeat a run over seeds and kernels; what holds over all of them"),
    },
    "1. prepare the data and the N+1 models": {
        "data": ("scripts_visatb.data.inventory", "what data a benchmark needs, and what of it is missing"),
        "new": ("scripts_visatb.data.new_benchmark", "write a benchmark file from annotation files"),
        "label": ("scripts_visatb.data.label_tasks", "label the records of an instruction mix with their tasks"),
        "refcoco": ("scripts_visatb.data.refcoco", "build annotation files from RefCOCO's own files"),
        "split": ("scripts_visatb.data.split", "split annotation files into train, val and test"),
        "subsets": ("scripts_visatb.data.subsets", "write the sub-datasets of the preparation models"),
        "check": ("llava.data.check", "check annotation files as training would read them"),
        "gradients": ("llava.train.contributions", "approximate contributions from gradients at one model"),
        "train": ("llava.train.train", "train a model: stage 1, full finetuning, LoRA or QLoRA"),
    },
    "2. score the models": {
        "ask": ("inference_visatb", "write a model's answers to question files"),
        "score": ("eval.registry", "score an answer file with one metric"),
    },
    "3. weigh the tasks": {"weigh": ("weighting_visatb", "turn the score matrix into task weights (Eq. 3-8)")},
    "4. finetune with the task weights": {
        "train": ("llava.train.train", "the same command, with --visatb_weights (Eq. 2)"),
        "plot-log": ("transformers_patch.plot_log", "draw losses and weights of trainings"),
    },
    "5. compare": {
        "overall": ("eval.overall", "dI% and dE% against single-task models (Eq. 9)"),
        "suite": ("llava.eval.suite", "ask and score the zero-shot benchmarks"),
    },
    "models and benchmark files": {
        "schema": ("visatb.benchmark_schema", "print the JSON schema of a benchmark file, for editors"),
        "chat": ("llava.serve.cli", "talk to a model about an image"),
        "merge": ("scripts_visatb.checkpoints.merge_lora_weights", "merge an adapter or projector into its base model"),
        "convert": ("scripts_visatb.checkpoints.convert_hf", "convert to or from Hugging Face's layout"),
        "export": ("scripts_visatb.data.export", "write data and task weights for ms-swift or LLaMA-Factory"),
    },
}


def make_parser() -> ArgumentParser:
    """The parser that prints the commands under the steps of the method."""
    steps = []
    for heading, commands in COMMANDS.items():
        steps += [f"{heading}:", *(f"  {name:<9} {what}" for name, (_, what) in commands.items()), ""]
    return ArgumentParser(
        prog="visatb",
        usage="visatb COMMAND [flags]     visatb COMMAND --help lists the flags of a command",
        description="Adaptive task balancing for visual instruction tuning (arXiv 2403.04343), step by step.",
        epilog="\n".join([*steps, _EXAMPLE]),
    )


def main() -> int | None:
    """Run the command that the first word names.

    Raises:
        InputError: no command of that name.
    """
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        make_parser().print_help()
        return 0
    modules = {command: module for commands in COMMANDS.values() for command, (module, _) in commands.items()}
    if name not in modules:
        raise InputError(f"visatb {shown(name)}: no such command. There are {', '.join(modules)}.")
    if name == "score":
        return score(words)
    # Parsers call the program after sys.argv[0]; the one of `show` adds that word itself.
    sys.argv = ["visatb", name, *words] if name == "show" else [f"visatb {name}", *words]
    return import_module(modules[name]).main()


def score(words: list[str]) -> int | None:
    """Run the command of the metric that the first word names, as in a benchmark file or as its script in eval/.

    Raises:
        InputError: no metric of that name.
    """
    from eval.registry import all_metrics  # needs PyYAML, which `weigh` on a score table does not

    programs, lines = {}, []
    for metric in all_metrics():
        program = sys.modules[metric.score.__module__]
        programs |= dict.fromkeys((metric.name, program.__name__.rpartition(".")[2]), program)
        lines.append(f"  {metric.name:<12} {program.__doc__.splitlines()[0]}")
    name, *rest = words or ["--help"]
    if name in ("-h", "--help"):
        print("\n".join(["usage: visatb score METRIC -a ANSWERS [flags]", "", "metrics:", *lines, ""]))
        print("example:\n  visatb score exact_match -a answers/VQAv2-val-2k_mini.json --output metrics/mini/VQAv2.json")
        return 0
    if name not in programs:
        raise InputError(f"visatb score {shown(name)}: no such metric. There are {', '.join(programs)}.")
    sys.argv = [f"visatb score {name}", *rest]
    return programs[name].main()


def script() -> None:
    """The console script."""
    run(main)


if __name__ == "__main__":
    script()
