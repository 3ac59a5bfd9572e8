#!/usr/bin/env bash
# Trains on a Cloud TPU slice of any number of hosts: up, run, down; beside them copy, logs, stop and fetch.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"

usage() {
  cat <<'END'
usage: launch/tpu_pod.sh STEP --name=NAME --zone=ZONE [--project=PROJECT] [flags] [-- flags of jaxkd train]

  up     asks for the slice, waits until it is there, installs jaxkd on every host
         --type=v5litepod-256 [--spot] [--nfs=HOST:/SHARE, mounted at /mnt/jaxkd] [--runtime=VERSION]
  run    trains on all hosts; exit codes 75 and 77, and hosts that cannot be reached, start it again
         --config=FILE[:ARG] --workdir=DIR [--restarts=20] [--pause=15] [-- --config.x=v ...]
  down   deletes the slice
  copy   installs this working copy again [--nfs=HOST:/SHARE]
  logs   follows what one host prints [--worker=0]
  stop   ends the run after a checkpoint
  fetch  copies the best student and the curves here: --workdir=DIR --out=FOLDER

DIR has to be a folder that all hosts see, and relative paths of data begin in /mnt/jaxkd when --nfs is given. A lost connection does not end a run: `run` again joins it.
--dry-run shows every command and runs none.
END
}

name="" zone="" project="" type="" spot="" runtime="" nfs=""
config="" workdir="" restarts=20 pause=15 worker=0 out=""

up() {
  need type
  if [[ ! $runtime ]]; then runtime=$(runtime_of "$type"); fi
  local create=(gcloud compute tpus queued-resources create "$name" "${place[@]}" --node-id="$name"
    --accelerator-type="$type" --runtime-version="$runtime")
  if [[ $spot ]]; then create+=(--spot); fi
  if [[ -z $(state) ]]; then run "${create[@]}"; fi
  until_active
  copy
}

runtime_of() {
  case $1 in
    v4-*) echo tpu-ubuntu2204-base ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v6e-*) echo v2-alpha-tpuv6e ;;
    *) refuse "no runtime is known for --type=$1 (v4-, v5litepod-, v5p-, v6e-); name one by --runtime=VERSION." ;;
  esac
}

state() {
  run gcloud compute tpus queued-resources describe "$name" "${place[@]}" "--format=value(state.state)" 2>/dev/null || true
}

until_active() {
  local now
  while true; do
    now=$(state)
    if [[ $dry_run ]]; then
      echo "# the last command again every $pause s until it says ACTIVE"
      return
    fi
    case $now in
      ACTIVE) return ;;
      FAILED | SUSPENDING | SUSPENDED)
        say "the slice $name is $now: Google refused it or took it back; 'down' and 'up' ask for another."
        exit 77
        ;;
    esac
    say "the slice $name is ${now:-not listed yet}; asking again in $pause s."
    sleep "$pause"
  done
}

copy() {
  local archive="$root/dist/jaxkd-$name.tar.gz"
  run mkdir -p "$root/dist"
  run tar --create --gzip --file="$archive" --exclude=__pycache__ --directory="$root" \
    jaxkd configs launch pyproject.toml README.md LICENSE
  run gcloud compute tpus tpu-vm scp "$archive" "$name:jaxkd.tar.gz" "${place[@]}" --worker=all
  on_hosts all "mkdir -p jaxkd && tar -xzf jaxkd.tar.gz -C jaxkd && $(quoted bash jaxkd/launch/on_host.sh install "$nfs")"
}

# on_hosts WORKER COMMAND: a command line on one host or on all.
on_hosts() { run gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker="$1" --command="$2"; }

train() {
  need config workdir
  pattern workdir ^/ "the whole path of a folder that all hosts see"
  local file=${config%%:*} code tries=0 words
  words=(bash jaxkd/launch/on_host.sh run "--config=$config" "--workdir=$workdir" --cluster=tpu ${passed[@]+"${passed[@]}"})
  if [[ -f $file ]]; then
    words[3]="--config=${config/#"$file"/$(basename "$file")}"
    run gcloud compute tpus tpu-vm scp "$file" "$name:jaxkd/$(basename "$file")" "${place[@]}" --worker=all
  fi
  while true; do
    code=0
    { on_hosts all "bash jaxkd/launch/on_host.sh clear" && on_hosts all "$(quoted "${words[@]}")"; } || code=$?
    case $code in
      0) return ;;
      75 | 77 | 255) ;; # 255: ssh did not reach a host
      1)
        say "gcloud failed, as it says above; if the slice was taken back, 'down' and 'up' ask for another."
        exit 1
        ;;
      130)
        say "the run was stopped; the same command goes on from its checkpoint."
        exit 130
        ;;
      *)
        say "the run ended with exit code $code, which starting again would not mend."
        exit "$code"
        ;;
    esac
    if ((tries >= restarts)); then
      say "the run ended with exit code $code after $restarts restarts; the same command goes on from its checkpoint."
      exit "$code"
    fi
    tries=$((tries + 1))
    say "the run ended with exit code $code; restart $tries of $restarts in $pause s."
    sleep "$pause"
  done
}

fetch() {
  need workdir out
  pattern workdir ^/ "the whole path of a folder that all hosts see"
  run mkdir -p "$out"
  run gcloud compute tpus tpu-vm scp "$name:$workdir/student" "$name:$workdir/metrics.jsonl" "$name:$workdir/config.json" \
    "$out" "${place[@]}" --worker=0 --recurse
}

step=${1:---help}
case $step in
  --help | help)
    usage
    exit 0
    ;;
  up | run | down | copy | logs | stop | fetch) shift ;;
  *) refuse "there is no step '$step'; there are up, run, down, copy, logs, stop, fetch." ;;
esac
flags "name zone project type runtime nfs config workdir restarts pause worker out" "spot" "$@"
need name zone
pattern name '^[a-z]([a-z0-9-]*[a-z0-9])?$' "a name of lower-case letters, digits and dashes"
count restarts pause
place=("--zone=$zone")
if [[ $project ]]; then place+=("--project=$project"); fi

case $step in
  run) train ;;
  down) run gcloud compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet ;;
  logs) on_hosts "$worker" "bash jaxkd/launch/on_host.sh logs" ;;
  stop) on_hosts all "bash jaxkd/launch/on_host.sh stop" ;;
  *) "$step" ;;
esac
