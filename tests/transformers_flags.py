"""Makes llava/train/transformers_flags.json from transformers itself: python -m tests.transformers_flags

The training's parser is built from that table, so that --help and a misspelled flag need not import transformers.
"""

import json
from dataclasses import fields
from typing import Any

import transformers
from accelerate.utils import DynamoBackend
from transformers import HfArgumentParser
from transformers.training_args import OptimizerNames

from llava.train.arguments import TrainingFlags
from llava.train.flags import FLAG_TABLE


def table() -> dict[str, Any]:
    """The flags of transformers.TrainingArguments that LLaVA's arguments do not define anew, and two lists of names."""
    own = {field.name for field in fields(TrainingFlags)}
    actions = HfArgumentParser(transformers.TrainingArguments)._actions
    flags = [entry(action) for action in actions if action.dest not in {"help", *own} and action.const is not False]
    optimizers, backends = ([member.value for member in names] for names in (OptimizerNames, DynamoBackend))
    return {"flags": flags, "optimizers": optimizers, "dynamo_backends": [name.lower() for name in backends]}


def entry(action: Any) -> dict[str, Any]:
    """What `llava.train.arguments.add_flag` needs to make that action."""
    kind = {"int": "int", "float": "float", "string_to_bool": "bool"}.get(getattr(action.type, "__name__", ""), "str")
    if kind == "bool" and action.nargs is None:
        kind = "bool or none"
    found = {"name": action.dest, "kind": f"{kind}s" if action.nargs == "+" else kind, "default": action.default}
    return found | ({"choices": list(action.choices)} if action.choices else {})


def text() -> str:
    """The file: one flag on a line."""
    found = table()
    lines = ",\n".join(f"  {json.dumps(flag)}" for flag in found.pop("flags"))
    return f'{{"flags": [\n{lines}\n],\n{json.dumps(found)[1:-1]}}}\n'


if __name__ == "__main__":
    FLAG_TABLE.write_text(text())
