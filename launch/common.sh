# Sourced by the launchers beside it: how flags are read, how a mistake is refused, how a command is run or shown.
# shellcheck shell=bash

dry_run=""
passed=()
exec 3>&1  # where a dry run shows its commands, also those whose output is captured

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

refuse() {
  say "$1"
  exit 64
}

# The words as a shell reads them back.
quoted() {
  local word line="" plain='^[A-Za-z0-9_./:=,@%+-]+$'
  for word in "$@"; do
    [[ $word =~ $plain ]] || word="'${word//\'/\'\\\'\'}'"
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

# Every command with an effect goes through here: it is shown, or it is run, word for word the same.
run() {
  if [[ $dry_run ]]; then
    printf '%s\n' "$(quoted "$@")" >&3
  else
    "$@"
  fi
}

# flags "VALUED ..." "SWITCHES ..." ARGUMENTS: sets the variable of each flag, and `passed` to what follows `--`.
flags() {
  local valued=" $1 " switches=" $2 dry_run " key
  shift 2
  while [[ $# -gt 0 && $1 != -- ]]; do
    key=${1%%=*}
    key=${key#--}
    key=${key//-/_}
    if [[ $1 == --help ]]; then
      usage
      exit 0
    elif [[ $1 != --* ]]; then
      refuse "'$1' is no flag; what belongs to jaxkd train stands behind --."
    elif [[ $1 == *=* && $valued == *" $key "* ]]; then
      printf -v "$key" %s "${1#*=}"
    elif [[ $1 != *=* && $switches == *" $key "* ]]; then
      printf -v "$key" yes
    elif [[ $valued == *" $key "* ]]; then
      refuse "$1 wants a value: $1=VALUE."
    elif [[ $switches == *" $key "* ]]; then
      refuse "${1%%=*} takes no value."
    else
      refuse "there is no ${1%%=*}; see --help, and what belongs to jaxkd train stands behind --."
    fi
    shift
  done
  if [[ $# -gt 0 ]]; then shift; fi
  # shellcheck disable=SC2034  # the launchers read it
  passed=("$@")
}

# need NAMES: refuses when one of these flags was not given.
need() {
  local key
  for key in "$@"; do
    [[ ${!key} ]] || refuse "--${key//_/-}=VALUE is missing."
  done
}

# count NAMES: refuses a flag that is no whole number.
count() {
  local key
  for key in "$@"; do
    [[ ${!key} =~ ^(0|[1-9][0-9]*)$ ]] || refuse "--${key//_/-} is a whole number, not '${!key}'."
  done
}

# pattern KEY REGEX WORDS: refuses a value that would change the meaning of what it is put into.
pattern() {
  [[ ${!1} =~ $2 ]] || refuse "--${1//_/-}='${!1}' is not $3."
}
