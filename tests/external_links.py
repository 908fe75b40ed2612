"""Prints every address outside the repository that its documents, pages and code name, each with the files that do.

python -m tests.external_links              # in one place, to look through
python -m tests.external_links --open       # and ask each of them: status, or what went wrong
"""

import argparse
import re
import subprocess
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_ADDRESS = re.compile(r"https?://[^\s\"'`<>()\[\]{}|\\]++(?!\{)")  # without those that code fills in
_KINDS = (".md", ".py", ".yaml", ".sh", ".ipynb", ".toml", ".cff", ".j2")
_OURS = re.compile(
    r"https?://(localhost|127\.|[^/]*(example\.|\.invalid|\.test)|www\.w3\.org/2000|schemas\.|git-lfs|[^/]*\{|[a-z]+[:/]|$)"
)


def external_links(root: Path = ROOT) -> dict[str, list[str]]:
    """Address -> the tracked files that name it; addresses of examples and of this machine are left out."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True, text=True).stdout
    found = defaultdict(set)
    for name in filter(None, names.split("\0")):
        if name.startswith("tests/") or not name.endswith(
            (".md", ".py", ".yaml", ".sh", ".ipynb", ".toml", ".cff", ".j2")
        ):
            continue
        for address in _ADDRESS.findall((root / name).read_text(encoding="utf-8")):
            if not _OURS.match(address):
                found[address.rstrip(".,;:")].add(name)
    return {address: sorted(found[address]) for address in sorted(found)}


def answer_of(address: str) -> str:
    """The status that an address answers with, or the error."""
    import requests

    try:
        return str(requests.get(address, timeout=20, stream=True, headers={"User-Agent": "Mozilla/5.0"}).status_code)
    except requests.RequestException as error:
        return type(error).__name__


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open", action="store_true", help="ask every address")
    options = parser.parse_args()
    for address, files in external_links().items():
        print(f"{answer_of(address):<8} {address}" if options.open else address, *files, sep="\n    ")


if __name__ == "__main__":
    main()
