# Sourced by quickstart.sh and tests/run.sh from the root of the checkout: makes virtual environments and installs their
# requirements, once; changed requirements install again, an interrupted installation continues.
#
#   set_up      .venv, from requirements.txt: everything but visatb_hf
#   set_up_hf   .venv-hf, from requirements-hf.txt: visatb_hf, on transformers 5

source "${BASH_SOURCE[0]%/*}/common.sh"
[ "${BASH_SOURCE[0]}" != "$0" ] || answer_help "$0" "bash quickstart.sh --help and bash tests/run.sh --help" "$@"

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

# ENVIRONMENT REQUIREMENTS
make_environment() {
    local environment="$1" requirements="$2" python wanted marker="$1/visatb-installed"
    if [ ! -x "$environment/bin/python" ]; then
        python="$(find_python)" || {
            echo "VisATB needs Python 3.11 (tokenizers 0.13.3 has no build for newer ones); install it so that python3.11 is on the PATH." >&2
            exit 2
        }
        "$python" -m venv "$environment"
    elif ! is_python_3_11 "$environment/bin/python"; then
        echo "VisATB needs Python 3.11, and $PWD/$environment holds another; delete that folder and start again." >&2
        exit 2
    fi
    wanted="$(cat "$requirements" pyproject.toml | "$environment/bin/python" -c 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())')"
    if [ "$(cat "$marker" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing $requirements into $environment (about a minute) ..."
        # An environment whose making was interrupted has no pip yet.
        "$environment/bin/python" -m pip --version >/dev/null 2>&1 || "$environment/bin/python" -m ensurepip >/dev/null
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
        "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
        echo "$wanted" >"$marker"
    fi
}

set_up() {
    make_environment .venv requirements.txt
    export PATH="$PWD/.venv/bin:$PATH"
}

set_up_hf() {
    make_environment .venv-hf requirements-hf.txt
}
