#!/bin/bash
# ask.sh COMMAND PATTERN: succeeds if the server's answer to a four-letter word matches.
set -euo pipefail
exec 3<>/dev/tcp/127.0.0.1/2181
printf '%s' "$1" >&3
grep -qE "$2" <&3
