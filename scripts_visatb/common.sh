# Sourced by all scripts: their --help, made of a script's own header and code, and refusals in one line.

refuse() {
    printf 'error: %s\n' "$1" >&2
    exit 2
}

# A value as messages show it: one line, not too long.
shown() {
    local quoted
    printf -v quoted '%q' "$1"
    printf '%s' "${quoted:0:200}"
}

# VARIABLE, what it is, an example
require() {
    [ -n "${!1:-}" ] || refuse "$1 must be $2, and is not set. Example: set $1=$3"
}

# SCRIPT, COMMAND that lists its flags, the script's words: ends with its help if one of the words asks for it.
answer_help() {
    local script="$1" command="$2" word
    shift 2
    for word in "$@"; do
        case "$word" in
        -h | --help)
            sed -n '/^[^#]/q; /^$/q; /^#!/d; /^#SBATCH/d; s/^# \{0,1\}//p' "$script"
            printf '\nVariables of the environment, with defaults:\n'
            variables_of "$script"
            printf '\nMore flags: %s\n' "$command"
            exit 0
            ;;
        esac
    done
}

# SCRIPT: the variables that it and the files beside it that it sources read; the first default that is met holds.
variables_of() {
    local files=("$1") n name
    for ((n = 0; n < ${#files[@]}; n++)); do
        for name in $(sed -n 's|^source .*/\([a-z_]*\.sh\)"*$|\1|p' "${files[n]}"); do
            [ ! -f "$(dirname "$1")/$name" ] || files+=("$(dirname "$1")/$name")
        done
    done
    LC_ALL=C awk '
        function note(name, value) {
            if (name ~ /^(SLURM_|BASH_|PYTHONPATH$)/) return
            if (!(name in default)) { order[++count] = name; default[name] = "" }
            if (default[name] == "") default[name] = value
        }
        /^base_sees=true/ { sees = 1 } # then the defaults under `if [ base_sees != true ]` do not hold
        /^fi/ { skipped = 0 }
        /^if .*base_sees.*!= true/ { skipped = sees }
        /^ *#/ || skipped { next }
        {
            line = $0
            while (match(line, /\$\{[A-Z][A-Z0-9_]*:?-[^}]*/)) {
                found = substr(line, RSTART + 2, RLENGTH - 2)
                line = substr(line, RSTART + RLENGTH)
                name = found; sub(/:?-.*/, "", name)
                value = found; sub(/^[A-Z0-9_]*:?-/, "", value)
                sub(/^\$(here|SCRIPTS)\//, "scripts_visatb/", value)
                sub(/^\$.*/, "set from the machine", value)
                note(name, value)
            }
            if ($1 == "require") { note($2, ""); if ($0 ~ /^require/) needed[$2] = 1 }
        }
        END {
            for (n = 1; n <= count; n++) {
                name = order[n]
                value = default[name]
                if (value == "") value = name in needed ? "must be set" : "not set"
                printf "  %-30s %s\n", name, value
            }
        }' "${files[@]}"
}
