#!/usr/bin/env bash
# PID 1 of a node: sets its namespaces up, then starts each program that it reads the
# name of. At the end of its input it ends, and with it the node, unless it has read
# "keep". It says "ready", and "ended NAME STATUS" when a program has ended.
set -eu
folder=$1 root=$2
address=10.99.0.1 services=10.96.0.0/16
read -r pid _ </proc/self/stat # as the machine counts
echo "$pid" >"$folder/pid"

# What the programs write outside of the folder goes to memory.
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/lib
mount --bind "$folder/log" /var/log
mkdir /var/lib/kubelet # a short path: it contains sockets
mount --bind "$folder/kubelet" /var/lib/kubelet
# The kubelet wants these, and would set them for the whole machine.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1; do
	file=$folder/sysctl/${setting%=*}
	mkdir -p "${file%/*}"
	echo "${setting#*=}" >"$file"
	mount --bind "$file" "/proc/sys/${setting%=*}"
done

if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then # version 2
	mkdir "/sys/fs/cgroup/$root"
	for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
		echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
	done
else
	for controller in /sys/fs/cgroup/*/; do
		mkdir -p "$controller$root"
	done
	for file in cpuset.cpus cpuset.mems; do
		cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset/$root/$file"
	done
fi

ip link set lo up
ip link add node0 type bridge # the kernel may have no dummy interface
ip address add "$address/24" dev node0
ip link set node0 up
ip route add default via 10.99.0.254 dev node0 # leads nowhere; the kubelet looks for one
echo 1 >/proc/sys/net/ipv4/ip_forward
echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables # Services of pods on the same bridge

run() {
	cd "$folder"
	case $1 in
	etcd)
		exec etcd --data-dir=etcd --log-level=warn \
			--listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
			--listen-peer-urls=http://127.0.0.1:2380
		;;
	kube-apiserver)
		exec kube-apiserver --etcd-servers=http://127.0.0.1:2379 \
			--bind-address="$address" --advertise-address="$address" --secure-port=6443 --service-cluster-ip-range="$services" \
			--tls-cert-file=pki/server.crt --tls-private-key-file=pki/server.key --client-ca-file=pki/ca.crt \
			--kubelet-client-certificate=pki/client.crt --kubelet-client-key=pki/client.key --kubelet-preferred-address-types=InternalIP \
			--service-account-issuer=https://kubernetes.default.svc \
			--service-account-key-file=pki/accounts.key --service-account-signing-key-file=pki/accounts.key \
			--token-auth-file=tokens.csv --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true
		;;
	kube-controller-manager)
		exec kube-controller-manager --kubeconfig=pki/controllers.conf --authentication-kubeconfig=pki/controllers.conf --authorization-kubeconfig=pki/controllers.conf \
			--bind-address=127.0.0.1 --cert-dir=pki/controllers --service-account-private-key-file=pki/accounts.key --root-ca-file=pki/ca.crt \
			--cluster-signing-cert-file=pki/ca.crt --cluster-signing-key-file=pki/ca.key --use-service-account-credentials=true --leader-elect=false
		;;
	kube-scheduler)
		exec kube-scheduler --kubeconfig=pki/scheduler.conf --authentication-kubeconfig=pki/scheduler.conf --authorization-kubeconfig=pki/scheduler.conf \
			--bind-address=127.0.0.1 --cert-dir=pki/scheduler --leader-elect=false
		;;
	containerd) exec containerd --config=containerd.toml ;;
	kubelet)
		exec kubelet --config=kubelet.yaml --kubeconfig=pki/kubelet.conf --cert-dir=pki/kubelet \
			--hostname-override=node1 --node-ip="$address"
		;;
	kube-proxy) exec kube-proxy --config=proxy.yaml ;;
	esac
	echo "there is no program $1"
	exit 1
}

echo ready
kept=
while read -r name; do
	if [[ $name == keep ]]; then
		kept=yes
		continue
	fi
	{
		status=0
		(run "$name" </dev/null >"$folder/log/$name.log" 2>&1) || status=$?
		echo "ended $name $status"
	} &
done
[[ -n $kept ]] || exit 0
exec >/dev/null
while :; do
	sleep infinity &
	wait $!
done
