#!/usr/bin/env bash
# Runs the main job on a Cloud TPU VM: creates it, copies the committed tree, installs, runs, fetches, deletes.
#
# The TPU VM is deleted however the job ends, unless --keep is given. A workdir that was fetched before is copied up
# first, so that a run that was cut off goes on. On a slice of several hosts (--hosts) all of them train the encoders
# together, and the first one does the rest on its CPUs; they share the workdir by what --mount does on each.
# Needs the gcloud command, logged in, with the TPU API enabled in the project.
set -euo pipefail

usage() {
    cat <<'END'
usage: launch/tpu_vm.sh --project=PROJECT --zone=ZONE [options] [-- FIELDS]

  --name=NAME        of the TPU VM (wsrl)
  --type=TYPE        accelerator type (v5litepod-8)
  --hosts=N          hosts of that type's slice (1)
  --mount=COMMAND    makes the workdir one folder of all hosts, such as 'gcsfuse BUCKET wsrl/runs/large'
  --version=VERSION  runtime image of the TPU VM (v2-alpha-tpuv5-lite)
  --config=FILE      configuration (configs/large.py)
  --workdir=DIR      relative folder, there and here, that receives everything (runs/large)
  --spot             a cheaper TPU VM that may be taken away
  --keep             do not delete the TPU VM
  --dry-run          print the commands without running them
  -- FIELDS          further flags of the job, such as --config.seed=1
END
}

fail() {
    echo "error: $1; see launch/tpu_vm.sh --help" >&2
    exit 2
}

project='' zone='' name=wsrl type=v5litepod-8 version=v2-alpha-tpuv5-lite hosts=1 mount=''
config=configs/large.py workdir=runs/large spot='' keep='' dry_run=''
while (($#)); do
    case $1 in
        --project=*) project=${1#*=} ;;
        --zone=*) zone=${1#*=} ;;
        --name=*) name=${1#*=} ;;
        --type=*) type=${1#*=} ;;
        --hosts=*) hosts=${1#*=} ;;
        --mount=*) mount=${1#*=} ;;
        --version=*) version=${1#*=} ;;
        --config=*) config=${1#*=} ;;
        --workdir=*) workdir=${1#*=} ;;
        --spot) spot=yes ;;
        --keep) keep=yes ;;
        --dry-run) dry_run=yes ;;
        --help | -h) usage && exit ;;
        --)
            shift
            break
            ;;
        *) fail "$1: unknown option" ;;
    esac
    shift
done
[[ $project ]] || fail '--project: missing'
[[ $zone ]] || fail '--zone: missing'
[[ $workdir && $workdir != /* && /$workdir/ != */../* ]] || fail "--workdir=$workdir: not a folder below this one"
[[ $hosts =~ ^[1-9][0-9]*$ ]] || fail "--hosts=$hosts: not a number of hosts"
((hosts == 1)) || [[ $mount ]] || fail '--mount: missing, and several hosts need one workdir'
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[[ -f $config ]] || fail "--config=$config: no such file"
[[ $dry_run ]] || command -v gcloud >/dev/null || fail 'gcloud: not installed'

source launch/run.sh

tpu() {
    run gcloud compute tpus tpu-vm "$@" --project="$project" --zone="$zone"
}

# On every host, and on the first one alone; a slice of one host needs no choice.
all=() first=()
if ((hosts > 1)); then
    all=(--worker=all) first=(--worker=0)
fi

# Fetches what there is and deletes the TPU VM; the exit status stays that of the job.
finish() {
    local status=$?
    trap - EXIT
    run mkdir -p "$(dirname "$workdir")" || true
    tpu scp --recurse "$name:wsrl/$workdir" "$(dirname "$workdir")" "${first[@]}" || echo "error: $workdir was not fetched" >&2
    if [[ ! $keep ]]; then
        tpu delete "$name" --quiet || echo "error: the TPU VM $name was not deleted and goes on costing" >&2
    fi
    exit "$status"
}

run mkdir -p build
run git archive --format=tar.gz --output=build/wsrl.tar.gz HEAD
tpu create "$name" --accelerator-type="$type" --version="$version" ${spot:+--spot}
trap finish EXIT # not before: a creation that fails because the name is taken must not delete that TPU VM
tpu scp build/wsrl.tar.gz "$name:wsrl.tar.gz" "${all[@]}"
tpu ssh "$name" --command="mkdir -p wsrl/$(dirname "$workdir") && tar -xzf wsrl.tar.gz -C wsrl" "${all[@]}"
if [[ $mount ]]; then
    tpu ssh "$name" --command="mkdir -p $(printf %q "wsrl/$workdir") && $mount" "${all[@]}"
fi
if [[ -d $workdir ]]; then
    tpu scp --recurse "$workdir" "$name:wsrl/$(dirname "$workdir")" "${first[@]}"
fi
# the image's own Python may be older than 3.11; uv brings one
tpu ssh "$name" --command="cd wsrl && python3 -m pip install --user uv && python3 -m uv venv --python 3.12 \
&& python3 -m uv pip install -e '.[train,report]' 'jax[tpu]'" "${all[@]}"
job=".venv/bin/python -m experiments.main"
for word in --config="$config" --workdir="$workdir" "$@"; do
    job+=" $(printf %q "$word")"
done
if ((hosts > 1)); then
    tpu ssh "$name" --command="cd wsrl && $job --coordinator=auto" "${all[@]}"
    job="JAX_PLATFORMS=cpu $job" # the chips answer only when all hosts ask
fi
tpu ssh "$name" --command="cd wsrl && $job" "${first[@]}"
