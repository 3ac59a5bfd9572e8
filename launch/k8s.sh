#!/usr/bin/env bash
# Puts name, image, recipe and slice into launch/jobset.yaml and gives it to kubectl.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

usage() {
  cat <<'END'
usage: launch/k8s.sh --name=NAME --image=IMAGE --claim=CLAIM --config=FILE[:ARG] --workdir=/runs/DIR [flags] [-- flags of jaxkd train]

  --claim        a ReadWriteMany claim, mounted at /runs
  --accelerator  tpu-v5-lite-podslice, or as cloud.google.com/gke-tpu-accelerator has it
  --topology     16x16
  --chips        chips of one host: 4
  --namespace    default
  --restarts     how often the whole set starts again: 20
  --dry-run      shows the command and the finished YAML
END
}

name="" image="" claim="" config="" workdir=""
accelerator=tpu-v5-lite-podslice topology=16x16 chips=4 namespace=default restarts=20

# The words as a YAML (and JSON) list, in which Kubernetes finds no $(VARIABLE) of its own.
yaml_list() {
  local word line=""
  for word in "$@"; do
    if [[ $word == *[[:cntrl:]]* ]]; then refuse "a flag of jaxkd train has a control character in it."; fi
    word=${word//\\/\\\\}
    word=${word//\$(/\$\$(}
    line+="${line:+, }\"${word//\"/\\\"}\""
  done
  printf '[%s]' "$line"
}

# The YAML with each ${KEY} replaced; ARGS comes last, so that what users write is not searched for more keys.
rendered() {
  local text
  text=$(grep -v '^#' "$here/jobset.yaml")
  set -- NAME "$name" NAMESPACE "$namespace" RESTARTS "$restarts" HOSTS "$((all / chips))" ACCELERATOR "$accelerator" \
    TOPOLOGY "$topology" IMAGE "$image" CHIPS "$chips" CLAIM "$claim" ARGS "$args"
  while [[ $# -gt 0 ]]; do
    text=${text//"\${$1}"/"$2"}
    shift 2
  done
  printf '%s\n' "$text"
}

flags "name image claim config workdir accelerator topology chips namespace restarts" "" "$@"
need name image claim config workdir
dns='^[a-z]([a-z0-9-]*[a-z0-9])?$'
for key in name claim namespace accelerator; do
  pattern "$key" "$dns" "a name of lower-case letters, digits and dashes"
done
pattern image '^[A-Za-z0-9][A-Za-z0-9_./:@-]*$' "an image"
pattern topology '^[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?$' "a topology such as 16x16 or 4x4x8"
pattern workdir '^/runs/.' "a folder on the claim, which is mounted at /runs"
count chips restarts
all=$((${topology//x/*}))
if ((chips < 1 || all < 1 || all % chips)); then
  refuse "a topology of $topology has $all chips, which hosts of --chips=$chips do not make up."
fi
args=$(yaml_list train "--config=$config" "--workdir=$workdir" ${passed[@]+"${passed[@]}"})

if [[ $dry_run ]]; then
  run kubectl apply --filename=-
  rendered
else
  rendered | run kubectl apply --filename=-
fi
