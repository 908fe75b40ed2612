"""Strict YAML reading. PyYAML is imported only when a file is read: training without a benchmark does not need it."""

import os
from typing import Any

from visatb.errors import InputError
from visatb.files import read_text


def read_yaml(path: str | os.PathLike) -> Any:
    """The content of a YAML file; tags that construct Python objects and duplicate keys are refused.

    Raises:
        InputError: naming file, line and key, or that PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise InputError(
            f"{path}: reading YAML needs PyYAML, which is not installed. Run pip install pyyaml."
        ) from None

    class Loader(yaml.SafeLoader):
        """Refuse duplicate keys, of which PyYAML keeps the last; before `<<` is resolved, which may repeat a key."""

        def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
            node = super().compose_mapping_node(anchor)
            lines: dict[tuple[str, str], int] = {}
            for key, _ in node.value:
                line, name = key.start_mark.line + 1, (key.tag, str(key.value))
                if name in lines:
                    first = f"line {lines[name]} has it"
                    raise InputError(f"{path}: line {line}: key {key.value!r} occurs twice, {first}. Remove one.")
                lines[name] = line
            return node

    try:
        return yaml.load(read_text(path), Loader)
    except InputError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        # Other than YAMLError: nested too deeply; text that its tag does not fit (a date of month 13, !!bool maybe).
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: broken YAML: {reason}. Fix the file.") from None
