#!/usr/bin/env bash
# Builds launch/Dockerfile, and pushes it with --push.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

usage() {
  cat <<'END'
usage: launch/image.sh --image=IMAGE[:TAG] [--accelerator=cpu|cuda12|tpu] [--push] [--dry-run]
END
}

image="" accelerator=cpu push=""

flags "image accelerator" "push" "$@"
need image
pattern image '^[A-Za-z0-9][A-Za-z0-9_./:@-]*$' "an image"
pattern accelerator '^(cpu|cuda12|tpu)$' "cpu, cuda12 or tpu"
[[ ${#passed[@]} -eq 0 ]] || refuse "an image takes no flags of jaxkd train; they go to the container."

run docker build --file="$here/Dockerfile" --build-arg=ACCELERATOR="$accelerator" --tag="$image" "$root"
if [[ $push ]]; then run docker push "$image"; fi
