# Sourced: what is carried into a machine to be run there.

# DIRECTORY gets osier, its units, the scenario tests and `inside`, which runs them.
collect_scenarios() { # DIRECTORY
    local messages executable name
    messages=$(cargo test --quiet --locked --no-run --test 'host*' --message-format=json)
    mkdir -p "$1/bin"
    while read -r name executable; do
        strip -o "$1/bin/$name" "$executable"
    done < <(jq -r 'select(.profile.test? and .executable) | .target.name + " " + .executable' <<<"$messages")
    strip -o "$1/osier" "$osier"
    cp -r units "$1/units"
    install tests/tiers/inside "$1/inside"
}

# Prints what the machine answered: every test program's output, then the line that says that the last one has ended.
# Without that line, or where the machine itself failed, its console tells why.
report_scenarios() { # RESULTS STATUS CONSOLE
    cat "$1"
    if [[ $2 -eq 0 ]] && grep -q '^scenarios: all have ended$' "$1"; then
        return
    fi
    tail -n 100 "$3"
    echo "the machine ended with status $2"
    echo "check scenarios: failed"
    return 1
}
