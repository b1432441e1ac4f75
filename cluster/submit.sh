#!/usr/bin/env bash
# Submit a sweep to a running Ray cluster: the command line of the sweep, with this script in the place of `python`.
#
#   cluster/submit.sh sweeps/metric.py --data /mnt/shared/data/lynx --out /mnt/shared/runs/lynx --trials 50
#
# The code of this checkout is uploaded; --data and --out must be absolute paths that every node sees.
# RAY_API_SERVER_ADDRESS: the cluster's dashboard, by default the forwarded port http://127.0.0.1:8265.
# The token is read from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.
set -euo pipefail

if [[ $# -eq 0 ]]; then
  echo "usage: $0 sweeps/SCRIPT.py --data PATH --out PATH [flags of the script]" >&2
  exit 2
fi
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
export RAY_API_SERVER_ADDRESS="${RAY_API_SERVER_ADDRESS:-http://127.0.0.1:8265}"
exec ray job submit --working-dir . -- python "$@"
