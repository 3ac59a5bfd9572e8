#!/usr/bin/env bash
# What tpu_pod.sh does on each host: install, clear, run, logs, stop. A run outlives the connection that started it.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
place=${JAXKD_RUN:-$HOME/jaxkd-run}              # lock: held while training; pid, exit, log, stopped
share=/mnt/jaxkd
tpu_lock=${JAXKD_TPU_LOCK:-/tmp/libtpu_lockfile} # what libtpu leaves behind when it is killed
mkdir -p "$place"
chmod 0700 "$place"

say() { printf '%s: %s\n' "$(hostname)" "$*" >&2; }

training() { ! flock --nonblock "$place/lock" true; }

install() {
  if [[ ${1:-} ]]; then mount_share "$1"; fi
  cd "$project"
  python3 -m pip install --user --quiet uv  # the hosts' own Python is older than jaxkd needs
  python3 -m uv venv --quiet --allow-existing --python 3.12 .venv
  python3 -m uv pip install --quiet --python .venv/bin/python 'jax[tpu]' --editable .
}

mount_share() {
  if mountpoint --quiet "$share"; then return; fi
  sudo apt-get -o DPkg::Lock::Timeout=600 install --yes --quiet nfs-common
  sudo mkdir -p "$share"
  grep -q " $share " /etc/fstab || echo "$1 $share nfs defaults,_netdev,nofail 0 0" | sudo tee -a /etc/fstab
  sudo mount "$share"
  sudo chown "$(id -un)" "$share"
}

# Makes room for an attempt: leaves a run that is training alone, else ends what is left of the last one.
clear_host() {
  local holders pid ours
  if training; then
    say "a run is training here already; joining it."
    return
  fi
  ours=$(cat "$place/pid" 2>/dev/null || true)
  rm -f "$place/exit" "$place/stopped" "$place/pid"
  holders=$(sudo -n fuser /dev/accel* /dev/vfio/[0-9]* 2>/dev/null || true)
  for pid in $holders; do
    if [[ $pid != "$ours" ]]; then
      say "process $pid ($(ps -o args= -p "$pid" || true)) holds the TPU; end it with: sudo kill $pid."
      exit 70
    fi
    say "process $pid of the last run still holds the TPU; ending it."
    sudo -n kill -KILL "$pid"
  done
  if [[ -e $tpu_lock ]]; then
    say "removing $tpu_lock, which a killed process left behind."
    sudo -n rm -f "$tpu_lock"
  fi
}

# Training happens in the share, so that a recipe finds its data there by the paths that it names.
enter() {
  cd "$project"
  if grep -qs " $share " /etc/fstab; then
    if ! mountpoint --quiet "$share" && ! sudo -n mount "$share"; then
      say "$share cannot be mounted."
      exit 74
    fi
    cd "$share"
  fi
}

recipe_of() {
  local path=${1#--config=}
  printf '%s' "${path%%:*}"
}

# Trains, or joins what trains already: ssh may run this twice for one attempt, so an attempt that ended is not repeated.
train() {
  local word words=()
  for word in "$@"; do
    if [[ $word == --config=* && -f $project/$(recipe_of "$word") ]]; then word="--config=$project/${word#*=}"; fi
    words+=("$word")
  done
  exec 9>"$place/lock"
  if [[ ! -f $place/exit ]] && flock --nonblock 9; then
    : >"$place/log"
    rm -f "$place/pid"
    enter
    # shellcheck disable=SC2016  # these expand in the shell that outlives this one
    setsid nohup bash -c '
      "${@:2}" 9>&- & echo $! >"$1/pid"
      code=0; wait $! || code=$?
      echo "$code" >"$1/exit"' bash "$place" "${JAXKD:-$project/.venv/bin/jaxkd}" train "${words[@]}" >>"$place/log" 2>&1 </dev/null &
    while [[ ! -s $place/pid ]]; do sleep 0.1; done
  fi
  exec 9>&-
  tail --lines=+1 --follow --sleep-interval=0.2 --pid="$(cat "$place/pid")" "$place/log"
  flock "$place/lock" true  # until the exit code is written
  if [[ -f $place/stopped ]]; then exit 130; fi
  exit "$(cat "$place/exit" 2>/dev/null || echo 77)"
}

stop() {
  if ! training; then
    say "no run is training here."
    return
  fi
  touch "$place/stopped"
  kill -TERM "$(cat "$place/pid")"
}

step=${1:-}
if [[ $# -gt 0 ]]; then shift; fi
case $step in
  install) install "$@" ;;
  clear) clear_host ;;
  run) train "$@" ;;
  logs) tail --lines=100 --follow=name --retry "$place/log" ;;
  stop) stop ;;
  *)
    say "there is no step '$step'; there are install, clear, run, logs, stop."
    exit 64
    ;;
esac
