"""What can answer questions: a LLaVA checkpoint, a current vision-language model, a server; imported when chosen.

Only one of the two local engines can run in an environment, since their versions of transformers exclude each other.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from llava.generate.engine import Model
from visatb.errors import InputError

LLAVA, HF, SERVER = "llava", "hf", "server"
# Engine -> module and class of its `Model`.
_HOMES = {
    LLAVA: ("llava.generate.llava_model", "LlavaModel"),
    HF: ("visatb_hf.model", "HfModel"),
    SERVER: ("llava.generate.server_model", "ServerModel"),
}
ENGINES = tuple(_HOMES)
# Engine -> major version of transformers, its requirements, and what to do in the other environment.
_TRANSFORMERS = {
    LLAVA: ("4", "requirements.txt (.venv)", "Run it there, or ask a current model with --engine hf."),
    HF: ("5", "requirements-hf.txt (.venv-hf)", "Run it there, or ask a LLaVA checkpoint with --engine llava."),
}


def model_of(args: Any, local_rank: int = 0) -> Model:
    """The model that the flags name.

    Raises:
        InputError: naming the flag; an engine that this environment cannot run.
    """
    if args.engine in _TRANSFORMERS:
        _refuse_other_environment(args.engine)
    module, name = _HOMES[args.engine]
    return getattr(import_module(module), name).of(args, local_rank)


def _refuse_other_environment(engine: str) -> None:
    major, requirements, remedy = _TRANSFORMERS[engine]
    try:
        found = version("transformers")
    except PackageNotFoundError:
        found = "none"
    if found.partition(".")[0] != major:
        raise InputError(
            f"--engine {engine} needs transformers {major}, found {found} in this environment: it belongs into that of "
            f"{requirements}. {remedy}"
        )
