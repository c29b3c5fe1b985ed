#!/bin/bash
# proot -r ROOT --bind=PATH:PATH!... --pwd=/ COMMAND...
set -eu
[ "$1" = -r ]
root=$2
shift 2
while [ "${1#--bind=}" != "$1" ]; do
    bound=${1#--bind=}
    bound=${bound%%:*}
    mkdir -p "$root/$(dirname "$bound")"
    shift
done
[ "$1" = --pwd=/ ]
shift
cd "$root"
exec "$@"
