# shellcheck shell=bash
# What fit.sbatch, fit.pbs and fit.lsf have in common: scheduler, workers and driver in one allocation.
#
# A script of a batch system sets
#   job        the id of the job, the same after a requeue
#   threads    threads of a worker
#   slot       MiB of memory that the batch system grants for one worker
#   slots      workers on the first node, on which scheduler and driver run too
#   launch     a function: runs its arguments as a command once for each worker, on their nodes
#   requeue    a function: puts the job back to the queue, and fails if the batch system refuses
#   preempted  a function: whether the batch system is taking the nodes away, and requeues by itself
# then sources this file with the arguments CORPUS MODEL COMPONENTS [flags of `dnmf fit`].
#
# SIGUSR1 to the script (time is up): the pass ends, is committed, and the job is requeued.
# SIGTERM (cancelled, or preempted): the pass ends if its workers live, and the job ends with 143.
# Exit status 75: a stopped fit that could not be requeued. Submit the same again.
# shellcheck disable=SC2154,SC2317 # what the script that sources this has set, and what traps call
set -u
stopping='' back='' driver=''
stop() { # the first signal stops the fit after its pass, a second one at once
    stopping=yes
    [ -z "$driver" ] || kill -USR1 "$driver" 2>/dev/null
}
trap 'back=yes; stop' USR1
trap 'back=; stop' TERM

corpus=$1 model=$2 components=$3
shift 3

# One BLAS thread per worker, whatever the defaults of the site: blocks run in parallel instead.
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
# Wait ten minutes for new workers if all have died. Nodes that are preempted take their workers with
# them, so a task may lose several workers without being their cause of death.
export DASK_DISTRIBUTED__SCHEDULER__NO_WORKERS_TIMEOUT=10m
export DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=10
# A fit is refused where memory is too small. Workers write nothing to disks, so their folder may lie
# beside the corpus, where this shell can remove it for all nodes, however the workers have ended.
export DASK_DISTRIBUTED__WORKER__MEMORY__TARGET=False DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False
export DASK_DISTRIBUTED__WORKER__USE_FILE_LOCKING=False
folder=$PWD/.dnmf-$job
rm -rf "$folder" && mkdir "$folder" || exit 1
address_file=$folder/scheduler.json
# Scheduler and driver take the part of one worker more.
memory=$((slot * slots / (slots + 1)))
# Workers must reach the scheduler and each other; pages about them are for this machine alone.
private=(--no-dashboard --dashboard-address 127.0.0.1:0)

dask scheduler --scheduler-file "$address_file" --port 0 "${private[@]}" &
scheduler=$!
# shellcheck disable=SC2016 # the worker's shell expands "$@"
launch bash -c 'trap "" USR1; exec "$@"' worker \
    dask worker --scheduler-file "$address_file" --nthreads "$threads" --memory-limit "${memory}MiB" \
    --local-directory "$folder" --death-timeout 120 "${private[@]}" &
workers=$!

lives() { kill -0 "$1" 2>/dev/null; }
until [ -s "$address_file" ] || [ -n "$stopping" ] || ! lives "$scheduler"; do sleep 1; done
status=75 # exit status of dnmf for "stopped by a signal: run the same again"
if [ -z "$stopping" ]; then
    dnmf fit "$corpus" "$model" -k "$components" --grace 90 --scheduler-file "$address_file" "$@" &
    driver=$!
    while lives "$driver" && lives "$workers"; do sleep 1; done
    if lives "$driver"; then # nobody is left to compute: the fit ends without its pass
        [ -n "$stopping" ] || echo "all workers have ended: the fit stops" >&2
        kill "$driver"
        sleep 2
        kill "$driver" 2>/dev/null
        lost=yes
    fi
    while lives "$driver"; do sleep 1; done # a signal would interrupt wait
    wait "$driver"
    status=$?
    if [ -n "$stopping" ] && [ "$status" -gt 128 ]; then
        status=75 # the signal came before Python ran
    fi
fi

for process in "$workers" "$scheduler"; do # workers first: they would log a lost scheduler
    kill "$process" 2>/dev/null
    wait "$process" 2>/dev/null
done
rm -rf "$folder"

if [ -n "${lost:-}" ] && [ -z "$stopping" ]; then
    if preempted; then
        echo "preempted: the batch system requeues the job" >&2
        while [ -z "$stopping" ]; do sleep 1; done
    fi
    status=1
elif [ "$status" -eq 75 ] && [ -z "$back" ] && [ -n "$stopping" ]; then
    status=143
elif [ "$status" -eq 75 ] && ! requeue; then
    echo "not requeued: submit the same again to continue $model" >&2
fi
exit "$status"
