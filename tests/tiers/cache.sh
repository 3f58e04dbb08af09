# Sourced: things that take long to make are made once and kept outside the repository.

# A failure inside $(cached ...) must end the script too.
shopt -s inherit_errexit

cache=${OSIER_CACHE:-/var/cache/osier}

# Makes CACHE/NAME-KEY with `COMMAND... PATH` unless it is there, and prints its path. KEY is a hash over the FILES
# that say how it is made: another recipe, another thing. It appears whole or not at all, once for all who ask at the
# same time.
cached() { # NAME FILE... -- COMMAND...
    local name=$1 key files=() path lock
    shift
    while [[ $1 != -- ]]; do files+=("$1"); shift; done
    shift
    key=$(cat -- "${files[@]}" | sha256sum | cut -c1-12)
    path=$cache/$name-$key
    mkdir -p "$cache"
    exec {lock}>"$cache/$name.lock"
    flock "$lock"
    if [[ ! -e $path ]]; then
        rm -rf --one-file-system "$path.new"
        "$@" "$path.new" >&2
        mv -T "$path.new" "$path"
    fi
    touch "$path"
    # What no run has used for a week belongs to a recipe that is gone.
    find "$cache" -mindepth 1 -maxdepth 1 -name "$name-????????????" -mtime +7 -exec rm -rf --one-file-system {} +
    exec {lock}>&-
    printf '%s\n' "$path"
}
