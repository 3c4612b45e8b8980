# Runs the suites in cgroups of version 2, each in one of its own, as a unit of systemd's has one.
set -uo pipefail
exec </dev/null
export PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/ TMPDIR=/tmp
stty -onlcr </dev/ttyS0
top=/sys/fs/cgroup
user=64321
failed=()
passed=0

end() {
    echo "$1" >/dev/ttyS1
    # The kernel does it: no program has to be found any more.
    echo o >/proc/sysrq-trigger
    while :; do read -rt 60 <>/dev/ttyS1; done
}

# A row: as whom, the binary, the tests' names. What it leaves and what it used is looked at afterwards.
row() {
    local who=$1 suite=$2 group=$top/$1-$2
    shift 2
    if [ -z "$("/run/tests/$suite" --list --skip ordinary_user "$@" | grep ': test$')" ]; then
        echo "== $suite as $who: no test is named so"
        return
    fi
    mkdir "$group" || end "$group can't be made"
    local become=() wrong=()
    if [ "$who" = user ]; then
        # As systemd delegates a cgroup.
        chown "$user:$user" "$group" "$group"/cgroup.{procs,threads,subtree_control}
        become=(setpriv --reuid "$user" --regid "$user" --clear-groups)
    fi
    echo "== $suite as $who: ${*:-all}"
    (
        cd /
        echo "$BASHPID" >"$group/cgroup.procs"
        exec "${become[@]}" "/run/tests/$suite" --skip ordinary_user --test-threads 2 "$@" 2>&1 3<&-
    ) | cat || wrong+=("its tests failed")
    # The node has handed on what the runs' cgroups need, and nothing of theirs is left.
    for controller in cpu memory pids; do
        grep -qw "$controller" "$group/cgroup.subtree_control" || wrong+=("$controller was not handed on")
    done
    grep -qx 'populated 0' "$group/cgroup.events" || wrong+=("processes are left")
    [ -z "$(find "$group" -mindepth 1 -type d ! -path "$group/runmesh-node")" ] || wrong+=("cgroups are left")
    local verdict=passed
    [ "${#wrong[@]}" -eq 0 ] || verdict=$(printf '%s, ' "${wrong[@]}") verdict=${verdict%, }
    echo "== $suite as $who: $verdict, $(cut -d ' ' -f 1 /proc/uptime) s since the start"
    if [ "$verdict" != passed ]; then failed+=("$suite as $who: $verdict"); else passed=$((passed + 1)); fi
    find "$group" -depth -type d -exec rmdir {} \;
}

mount -t cgroup2 cgroup2 $top || end "there is no cgroup version 2"
echo '+cpu +memory +pids' >$top/cgroup.subtree_control || end "the controllers can't be had"
echo "== Linux $(uname -r), cgroup controllers: $(cat $top/cgroup.controllers)"
export MESH_TEST_HELPER=/run/tests/sandbox-helper MESH_TEST_CGROUPS=2
while read -r -u 3 who suite filters; do
    row "$who" "$suite" $filters
done 3</run/rows
if [ "${#failed[@]}" -gt 0 ]; then
    told=$(printf '%s; ' "${failed[@]}")
    end "${told%; }"
fi
end "passed $passed"
