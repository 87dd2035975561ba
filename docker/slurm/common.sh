# Sourced by the job scripts: how medsoft is called, and what happens after a signal to make room.
# shellcheck shell=bash
: "${MEDSOFT_IMAGE:?set MEDSOFT_IMAGE to the Apptainer image, such as /shared/medsoft.sif}"
# Folders that the container sees, with commas between: data, results, weights.
inside=(apptainer exec --nv --bind "${MEDSOFT_BIND:-$PWD}" --pwd "$PWD" "$MEDSOFT_IMAGE")

# Runs medsoft on the job's tasks. After SIGUSR1 it ends with 138, its state saved: the job is put into the queue again.
run_medsoft() {
  local code=0
  srun --kill-on-bad-exit=1 "${inside[@]}" medsoft "$@" || code=$?
  if [ "$code" -eq 138 ]; then
    echo "Stopped to make room; asking for another run."
    scontrol requeue "$SLURM_JOB_ID"
  fi
  return "$code"
}
