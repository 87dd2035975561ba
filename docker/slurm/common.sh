# Sourced by the job scripts: how medsoft is called, and what happens after a signal to make room.
# shellcheck shell=bash
: "${MEDSOFT_IMAGE:?set MEDSOFT_IMAGE to the Apptainer image, such as /shared/medsoft.sif}"
# Folders that the container sees, with commas between: data, results, weights.
inside=(apptainer exec --nv --bind "${MEDSOFT_BIND:-$PWD}" --pwd "$PWD" "$MEDSOFT_IMAGE")

# Runs medsoft on the job's tasks. A task that SIGUSR1 has stopped ends with 138, its state saved: the job is put into the
# queue again. Each task leaves a note of it, as srun tells the code of one alone: it may have ended another one, which
# was slower to leave.
run_medsoft() {
  local code=0 note="$PWD/.medsoft-requeue-$SLURM_JOB_ID"
  rm -f "$note"
  # shellcheck disable=SC2016 # for the tasks' shell, which signals reach too and which must wait for medsoft
  srun --kill-on-bad-exit=1 bash -c 'trap : USR1 TERM INT
    note=$1 code=0
    shift
    "$@" || code=$?
    [ "$code" -ne 138 ] || : >"$note"
    exit "$code"' task "$note" "${inside[@]}" medsoft "$@" || code=$?
  if [ -e "$note" ] || [ "$code" -eq 138 ]; then # 138 alone: before the tasks' shell had begun
    rm -f "$note"
    ask_for_another_run
    code=138
  fi
  return "$code"
}

ask_for_another_run() {
  echo "Stopped to make room; asking for another run."
  scontrol requeue "$SLURM_JOB_ID"
}
