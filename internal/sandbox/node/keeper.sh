#!/usr/bin/env bash
# Starts a node in namespaces of its own, waits for its end, and removes what the kernel
# does not: the node's cgroups and its folder. It outlives the program that started it,
# so that also after kill -9 of that one nothing is left. kill ends the node.
set -u
folder=$1 root=$2
trap '' PIPE
trap 'kill -KILL "$(<"$folder/pid")" 2>/dev/null' TERM INT HUP
enabled=$(cat /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null)

# The end of unshare ends PID 1, and the end of PID 1 all processes, mounts and addresses.
setpriv --pdeathsig KILL unshare --mount --net --pid --uts --ipc --fork --kill-child bash "$folder/init.sh" "$folder" "$root" <&0 3>&- &
exec </dev/null >/dev/null
while kill -0 $! 2>/dev/null; do wait $!; done # a signal ends wait

# The kernel empties a cgroup a moment after the end of its last process.
for _ in {1..300}; do
	find /sys/fs/cgroup/"$root" /sys/fs/cgroup/*/"$root" -depth -type d -exec rmdir {} + 2>/dev/null
	rm -rf --one-file-system "$folder" 2>/dev/null
	[[ -n $(compgen -G "/sys/fs/cgroup/*/$root") || -e /sys/fs/cgroup/$root || -e $folder ]] || break
	sleep 0.1
done
# Controllers that the node has enabled for the children of the first cgroup.
for controller in $(cat /sys/fs/cgroup/cgroup.subtree_control 2>/dev/null); do
	[[ " $enabled " == *" $controller "* ]] || echo "-$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
