#!/bin/sh
# First process of an image, and of a systemd unit: runs a command so that a stop reaches all it
# started and waits for it. Prefect's workers kill their flow runs when they are told to stop, and
# with its first process a container ends: training would lose what it has learned since the last
# checkpoint.
#
# Waited for: what training may take to save (COGVX_STOP_SECONDS), two minutes to bring the checkpoint
# to the store, ten seconds. Whoever stops this from outside must be 30 s more patient than that:
# stop_grace_period, terminationGracePeriodSeconds, TimeoutStopSec.
set -eu
# Empty means AWS to whoever fills in a form; to MLflow an empty address is an invalid one.
[ -n "${MLFLOW_S3_ENDPOINT_URL-}" ] || unset MLFLOW_S3_ENDPOINT_URL
stop=${COGVX_STOP_SECONDS:-25}
case "$*" in
    # Each alone knows how its command ends flow runs.
    "prefect worker start "*) keeper=tasks.clients.tend ;;
    "prefect flow-run execute"*) keeper=tasks.clients.forward ;;
    *) keeper=tasks.clients.supervise ;;
esac
exec "${COGVX_PYTHON:-python}" -m "$keeper" --grace "$((${stop%.*} + 130))" -- "$@"
