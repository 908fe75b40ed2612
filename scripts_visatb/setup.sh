# Sourced by quickstart.sh and tests/run.sh from the root of the checkout: makes .venv and installs requirements.txt
# into it, once; a changed requirements.txt installs again, an interrupted installation goes on.

is_python_3_11() {
    [ "$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "3.11" ]
}

find_python() {
    local candidate
    for candidate in python3.11 python3 python; do
        if command -v "$candidate" >/dev/null 2>&1 && is_python_3_11 "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

set_up() {
    local python wanted marker=.venv/visatb-installed
    if [ ! -x .venv/bin/python ]; then
        python="$(find_python)" || {
            echo "VisATB needs Python 3.11 (tokenizers 0.13.3 has no build for newer ones); install it so that python3.11 is on the PATH." >&2
            exit 2
        }
        "$python" -m venv .venv
    elif ! is_python_3_11 .venv/bin/python; then
        echo "VisATB needs Python 3.11, and $PWD/.venv holds another; delete that folder and start again." >&2
        exit 2
    fi
    wanted="$(cat requirements.txt pyproject.toml | .venv/bin/python -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
    if [ "$(cat "$marker" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing requirements.txt into .venv (about a minute) ..."
        # An environment whose making was interrupted has no pip yet.
        .venv/bin/python -m pip --version >/dev/null 2>&1 || .venv/bin/python -m ensurepip >/dev/null
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
        echo "$wanted" >"$marker"
    fi
    export PATH="$PWD/.venv/bin:$PATH"
}
