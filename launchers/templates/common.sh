#!/bin/bash
# ---- What all batch scripts of mlc share: words, events, warnings, coming back.
# Set above: submit_folder work_folder needed_folder log_folder may_requeue chain starts_without_progress variables
# srun_options inside. `position` is defined below: a number that grows with the work.

job=$SLURM_JOB_ID
restart=${SLURM_RESTART_COUNT:-0}
job_name=$job
[[ -z ${SLURM_ARRAY_JOB_ID:-} ]] || job_name=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID
this_host=${SLURMD_NODENAME:-$(uname -n)}
events=$submit_folder/events.jsonl
counts=$submit_folder/starts
[[ -z ${SLURM_ARRAY_TASK_ID:-} || $chain == yes ]] || counts+=-$SLURM_ARRAY_TASK_ID
step_pid=
warned=no
signals=0

say() { TZ=UTC printf '%(%FT%TZ)T job %s.%s: %s\n' -1 "$job_name" "$restart" "$*"; }

# event NAME KEY VALUE ...: a line of events.jsonl. Numbers stay bare; words lose what JSON would have to escape.
event() {
    local line
    TZ=UTC printf -v line '{"time": "%(%FT%TZ)T", "event": "%s", "job": "%s", "restart": %s' -1 "$1" "$job_name" "$restart"
    shift
    while (($# > 1)); do
        if [[ $2 =~ ^[0-9]+$ ]]; then line+=", \"$1\": $2"; else line+=", \"$1\": \"${2//[\"\\[:cntrl:]]/ }\""; fi
        shift 2
    done
    echo "$line}" >>"$events" || say "cannot write $events"
}

# A field of `scontrol show job`; nothing where the controller does not answer.
field_of_job() {
    local shown
    # By $job the last job of an array would ask for all of them. The name could hold what looks like a field.
    shown=$(scontrol show job -o "$job_name" 2>/dev/null)
    tr ' ' '\n' <<<"${shown/" JobName=$SLURM_JOB_NAME "/ }" | sed -n "s/^$1=//p" | head -n 1
}

# Whether this script is the job's newest start: a node that was cut off may run an old copy.
is_current() { [[ $(field_of_job Restarts) == "$restart" && $(field_of_job BatchHost) == "$this_host" ]]; }

# Whether somebody cancelled the job. While its processes end, SLURM shows COMPLETING for whatever ended it; it counts
# the restart at once where it requeues by itself, and says so where it was the time limit.
is_cancelled() {
    local state
    state=$(field_of_job JobState)
    [[ $state == CANCELLED* ]] && return
    [[ $state == COMPLETING && $(field_of_job Restarts) == "$restart" && $(field_of_job Reason) != TimeLimit ]]
}

# leave_out JOB HOSTS: JOB, which waits, gets none of HOSTS. Of an array, those of its jobs that wait.
leave_out() {
    local excluded
    excluded=$(field_of_job ExcNodeList)
    [[ -z $excluded || $excluded == "(null)" ]] || set -- "$1" "$excluded,$2"
    scontrol update JobId="$1" ExcNodeList="$2" && say "comes back without $2"
}

# requeue [HOSTS]: comes back as the same job, without HOSTS. Returns only where that is not to be.
requeue() {
    local tries
    for ((tries = 0; tries < 60; tries++)); do
        if ! scontrol ping 2>/dev/null | grep -q ' UP'; then
            say "the controller does not answer; trying again"
            sleep 10
            continue
        fi
        if ! is_current || is_cancelled; then
            say "not requeued: the job is $(field_of_job JobState), restart $(field_of_job Restarts)"
            return 1
        fi
        # SLURM ends this script from the next command on, and it has something left to do.
        trap '' TERM
        if ! scontrol requeue "$job_name"; then
            say "requeue refused"
            return 1
        fi
        # Only a pending job's hosts can be changed, and a requeued one counts as pending at once.
        [[ -z ${1:-} ]] || leave_out "$job_name" "$1"
        exit 0
    done
    return 1
}

# stop CODE REASON: the job ends and does not come back.
stop() {
    say "$2"
    event end code "$1" step "$(position)" reason "$2" next stop
    exit "$1"
}

# come_back CODE REASON [HOSTS]: the job comes back without HOSTS, or leaves the rest to the next one of its chain.
come_back() {
    local next=requeue
    [[ $may_requeue == yes ]] || next=stop
    [[ $chain == no ]] || next=chain
    ! is_cancelled || stop "$1" "cancelled: $2"
    say "$2"
    event end code "$1" step "$(position)" reason "$2" next "$next"
    [[ $next != requeue ]] || requeue "${3:-}"
    if [[ $next == chain && $SLURM_ARRAY_TASK_ID -lt $SLURM_ARRAY_TASK_MAX ]]; then
        [[ -z ${3:-} ]] || leave_out "$SLURM_ARRAY_JOB_ID" "$3"
        # Jobs that wait for a chain wait until all of it has succeeded: what the next one can mend is no failure.
        exit 0
    fi
    exit "$1"
}

finish() {
    say finished
    event end code 0 step "$(position)" reason finished next "done"
    exit 0
}

# run_step COMMAND...: waits for a step, and hands on a warning. Its exit code is in `code`.
run_step() {
    local seen
    [[ $warned == no ]] || come_back 75 "asked to end before a step was started"
    "$@" &
    step_pid=$!
    # A signal ends `wait` with a code that is not the step's; asked again, it knows the step's.
    while :; do
        seen=$signals
        wait "$step_pid"
        code=$?
        [[ $seen != "$signals" ]] || break
    done
    step_pid=
}

# answers HOST: whether a host of this job starts a step.
answers() { timeout 30 srun --nodes=1 --ntasks=1 --nodelist="$1" --overlap --mpi=none true >&2; }

# SLURM numbers the steps of each start from 0. Where a step was slow to end, slurmctld signals it again a minute later by
# its number (seen in 22.05: KillWait longer than MessageTimeout, as by default, and a rank that ignores SIGTERM), and
# meets the next start's. Steps that do nothing set the next number apart from those of the three starts before.
new_step_number() {
    local spent
    for ((spent = 0; spent < restart % 4; spent++)); do
        answers "$this_host" || return
    done
}

# The environment, the folders, and the hosts of this start: `hosts`, `nodes`.
begin() {
    local assignment
    for assignment in "${variables[@]}"; do export "${assignment?}"; done
    # Steps get this environment, whatever the job got of the one that submitted it.
    export SLURM_EXPORT_ENV=ALL
    export PYTHONPATH=$submit_folder/code PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
    if ! cd "$work_folder" || [[ ! -d $needed_folder || ! -w $submit_folder ]]; then
        say "$this_host does not see $work_folder and $needed_folder"
        [[ $may_requeue == no ]] || requeue "$this_host"
        exit 1
    fi
    if [[ $chain == yes ]] && grep -qs '"next": "done"' "$events"; then
        say "an earlier job of this chain has finished"
        exit 0
    elif [[ $chain == yes ]] && grep -qs '"next": "stop"' "$events"; then
        say "an earlier job of this chain has failed for good"
        exit 1
    fi
    mkdir -p "$log_folder"
    mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    nodes=${#hosts[@]}
}

# count_start RANKS: tells of this start, and ends a job whose starts come no further. SLURM's own restarts count too.
count_start() {
    local step counted starts
    step=$(position)
    event start nodes "$nodes" hosts "$SLURM_JOB_NODELIST" ranks "$1" step "$step"
    say "$nodes nodes ($SLURM_JOB_NODELIST), $1 ranks, at $step"
    read -r counted starts 2>/dev/null <"$counts" || counted='' starts=0
    [[ $counted == "$step" ]] || starts=0
    echo "$step $((starts + 1))" >"$counts"
    ((starts < starts_without_progress)) || stop 1 "$starts starts came no further than $step"
}

# SLURM sends USR2 to this script alone (--signal=B:) and TERM to ranks as well; srun hands USR2 on to every rank.
trap 'warned=yes; ((signals += 1)); say "warned: asking for a save"; [[ -z $step_pid ]] || kill -USR2 "$step_pid"' USR2
trap 'warned=yes; ((signals += 1)); say "told to end"' TERM
