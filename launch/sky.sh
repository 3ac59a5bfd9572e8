#!/usr/bin/env bash
# Starts launch/skypilot.yaml as a managed job with a name, recipe, bucket and machines of your choice.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

usage() {
  cat <<'END'
usage: launch/sky.sh --name=NAME --bucket=BUCKET --config=FILE[:ARG] --workdir=/runs/DIR [flags] [-- flags of jaxkd train]

  --bucket        your bucket, which all nodes see at /runs
  --nodes         1
  --accelerators  of one node: H100:8
  --on-demand     no spot machines
  --dry-run       shows the command
END
}

name="" bucket="" config="" workdir="" nodes=1 accelerators=H100:8 on_demand=""

flags "name bucket config workdir nodes accelerators" "on_demand" "$@"
need name bucket config workdir
pattern name '^[a-z]([a-z0-9-]*[a-z0-9])?$' "a name of lower-case letters, digits and dashes"
pattern workdir '^/runs/.' "a folder on the bucket, which is mounted at /runs"
count nodes

command=(sky jobs launch "$here/skypilot.yaml" --yes --workdir="$root" --name="$name" --num-nodes="$nodes"
  --gpus="$accelerators" --env="JAXKD_BUCKET=$bucket" --env="JAXKD_CONFIG=$config" --env="JAXKD_WORKDIR=$workdir"
  --env="JAXKD_ARGS=$(quoted ${passed[@]+"${passed[@]}"})")
if [[ $accelerators == tpu-* ]]; then command+=("--env=JAXKD_JAX=jax[tpu]"); fi
if [[ $on_demand ]]; then command+=(--no-use-spot); fi
run "${command[@]}"
