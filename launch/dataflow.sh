#!/usr/bin/env bash
# Embeds models on Google Cloud Dataflow: builds the wheel of this tree and starts the pipeline, which waits for the job
# and then makes the index here. The same command goes on with a run that was cut off.
#
# Needs `pip install -e '.[beam,hub]' 'apache-beam[gcp]'`, credentials (gcloud auth application-default login), and the
# Dataflow API enabled in the project. Workers run one thread a process, as each process holds an encoder.
set -euo pipefail

usage() {
    cat <<'END'
usage: launch/dataflow.sh --project=PROJECT --region=REGION --bucket=gs://BUCKET/FOLDER [options] -- SOURCE...

  --index=DIR        of the index that is made here at the end, or a vector store (zoo.index)
  --name=NAME        of the job (wsrl)
  --workers=N        most workers (100)
  --machine=TYPE     of a worker (e2-standard-4)
  --disk=GB          of a worker, for downloads (100)
  --flexrs           a lower price for a job that starts within six hours
  --dry-run          print the commands without running them
  -- SOURCE...       what the pipeline takes, such as 'hf://*/*?filter=image-classification', and its options
END
}

fail() {
    echo "error: $1; see launch/dataflow.sh --help" >&2
    exit 2
}

project='' region='' bucket='' index=zoo.index name=wsrl workers=100 machine=e2-standard-4 disk=100 flexrs='' dry_run=''
while (($#)); do
    case $1 in
        --project=*) project=${1#*=} ;;
        --region=*) region=${1#*=} ;;
        --bucket=*) bucket=${1#*=} ;;
        --index=*) index=${1#*=} ;;
        --name=*) name=${1#*=} ;;
        --workers=*) workers=${1#*=} ;;
        --machine=*) machine=${1#*=} ;;
        --disk=*) disk=${1#*=} ;;
        --flexrs) flexrs=yes ;;
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
[[ $region ]] || fail '--region: missing'
[[ $bucket == gs://?* ]] || fail "--bucket=$bucket: not gs://BUCKET/FOLDER"
[[ $workers =~ ^[1-9][0-9]*$ ]] || fail "--workers=$workers: not a number of workers"
[[ $disk =~ ^[1-9][0-9]*$ ]] || fail "--disk=$disk: not a number of GB"
(($#)) || fail 'SOURCE: missing after --'
cd "$(dirname "${BASH_SOURCE[0]}")/.."

source launch/run.sh

run rm -rf build/dataflow
run python -m pip wheel --quiet --no-deps --wheel-dir build/dataflow .
if [[ $dry_run ]]; then
    wheel=build/dataflow/wsrl-VERSION-py3-none-any.whl
else
    wheel=$(ls build/dataflow/wsrl-*.whl)
fi
run python -m wsrl.pipelines.beam "$@" --out "$bucket/parts" --index "$index" \
    --runner=DataflowRunner --project="$project" --region="$region" --job_name="$name" \
    --temp_location="$bucket/temp" --staging_location="$bucket/staging" \
    --max_num_workers="$workers" --worker_machine_type="$machine" --disk_size_gb="$disk" \
    --number_of_worker_harness_threads=1 --experiments=use_runner_v2 \
    ${flexrs:+--flexrs_goal=COST_OPTIMIZED} \
    --extra_package="$wheel" --requirements_file=launch/dataflow_requirements.txt
