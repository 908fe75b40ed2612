"""Print the JSON schema of a benchmark file, which editors check the file with as it is written.

The first line of the shipped benchmark files names it: `# yaml-language-server: $schema=benchmark.schema.json`.
"""

import json

from visatb.cli import ArgumentParser, run

_EXAMPLE = """example:
  python -m visatb.benchmark_schema > benchmark.schema.json
"""


def main() -> int:
    """Command line."""
    ArgumentParser(description=__doc__, epilog=_EXAMPLE).parse_args()
    from visatb.benchmark import json_schema

    print(json.dumps(json_schema(), indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    run(main)
