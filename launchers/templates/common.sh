#!/bin/bash
# ---- What all batch scripts of mlc share: words, events, warnings, coming back, the node check.
# Set above: submit_folder work_folder needed_folder log_folder may_requeue chain starts_without_progress variables
# python inside srun_options check_options check_seconds. `position` is defined below: a number that grows with the work.

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
field_of_job() { scontrol show job -o "$job" 2>/dev/null | tr ' ' '\n' | sed -n "s/^$1=//p" | head -n 1; }

# Whether this script is the job's newest start, and nobody cancelled it: a node that was cut off may run an old copy.
is_current() {
    [[ $(field_of_job JobState) != CANCELLED* && $(field_of_job Restarts) == "$restart" && $(field_of_job BatchHost) == "$this_host" ]]
}

# requeue [HOSTS]: comes back as the same job, without HOSTS. Returns only where that is not to be.
requeue() {
    local without=${1:-} tries excluded
    for ((tries = 0; tries < 60; tries++)); do
        if ! scontrol ping 2>/dev/null | grep -q ' UP'; then
            say "the controller does not answer; trying again"
            sleep 10
            continue
        fi
        if ! is_current; then
            say "not requeued: the job is $(field_of_job JobState), restart $(field_of_job Restarts)"
            return 1
        fi
        # SLURM ends this script within KillWait of the next command.
        trap '' TERM
        if ! scontrol requeue "$job"; then
            say "requeue refused"
            return 1
        fi
        if [[ -n $without ]]; then
            # Only a pending job's hosts can be changed, and a requeued one counts as pending at once.
            excluded=$(field_of_job ExcNodeList)
            [[ -z $excluded || $excluded == "(null)" ]] || without=$excluded,$without
            scontrol update JobId="$job" ExcNodeList="$without" && say "comes back without $without"
        fi
        sleep 300
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
    say "$2"
    event end code "$1" step "$(position)" reason "$2" next "$next"
    [[ $next != requeue ]] || requeue "${3:-}"
    exit "$1"
}

finish() {
    say finished
    event end code 0 step "$(position)" reason finished next "done"
    exit 0
}

# run_step COMMAND...: waits for a step, and hands on a warning. Its exit code is in `code`.
run_step() {
    "$@" &
    step_pid=$!
    while :; do
        wait "$step_pid"
        code=$?
        kill -0 "$step_pid" 2>/dev/null || break
    done
    step_pid=
}

# The environment, the folders, and the hosts of this start: `hosts`, `nodes`.
begin() {
    local assignment
    for assignment in "${variables[@]}"; do export "${assignment?}"; done
    export PYTHONPATH=$submit_folder/code PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1
    # srun does not take over the job's --cpus-per-task.
    [[ -z ${SLURM_CPUS_PER_TASK:-} ]] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
    if ! cd "$work_folder" || [[ ! -d $needed_folder || ! -w $submit_folder ]]; then
        say "$this_host does not see $work_folder and $needed_folder"
        [[ $may_requeue == no ]] || requeue "$this_host"
        exit 1
    fi
    if [[ $chain == yes ]] && grep -qs '"next": "done"' "$events"; then
        say "an earlier job of this chain has finished"
        exit 0
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

# One process on each node looks for what is wrong with it; a bad node is left out of the next start.
check_nodes() {
    local folder=$submit_folder/check-$job_name.$restart bad
    mkdir -p "$folder"
    # A bad node ends nobody else's check: it is to be named.
    run_step timeout $((check_seconds + 30)) srun "${step_options[@]}" --ntasks="$nodes" --ntasks-per-node=1 \
        --kill-on-bad-exit=0 --wait=0 --output="${folder//%/%%}.log" "${inside[@]}" "$python" -m mlc check cluster \
        --folder "$folder" --hosts "$(IFS=, && echo "${hosts[*]}")" --seconds "$check_seconds" "${check_options[@]}"
    if [[ -s $folder/bad-nodes.txt ]]; then
        bad=$(cut -f 1 "$folder/bad-nodes.txt" | paste -s -d ,)
        event "bad node" hosts "$bad" reason "$(cut -f 2 "$folder/bad-nodes.txt" | paste -s -d ';')"
        come_back 1 "bad nodes: $(tr '\t' ' ' <"$folder/bad-nodes.txt" | paste -s -d ';')" "$bad"
    elif [[ $warned == yes ]]; then
        come_back 75 "asked to end during the node check"
    elif [[ ! -e $folder/bad-nodes.txt ]]; then
        come_back 1 "the node check came to no verdict: $folder.log"
    fi
    say "the node check found nothing"
}

# SLURM sends USR2 to this script alone (--signal=B:) and TERM to ranks as well; srun hands USR2 on to every rank.
trap 'warned=yes; say "warned: asking for a save"; [[ -z $step_pid ]] || kill -USR2 "$step_pid"' USR2
trap 'warned=yes; say "told to end"' TERM
