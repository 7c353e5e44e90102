# For the scripts beside it, which source it and set dry_run.

# Prints a command so that a shell can read it again, and runs it.
run() {
    local word line='' quote="'\\''"
    for word; do
        [[ $word =~ ^[A-Za-z0-9_./:=@,+-]+$ ]] || word="'${word//\'/$quote}'"
        line+=" $word"
    done
    echo "${line# }"
    [[ $dry_run ]] || "$@"
}
