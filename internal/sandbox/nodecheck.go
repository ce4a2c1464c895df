package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The versions are also those of the modules in the folder kube, which scripts/setup
// builds; a test compares the two.
const (
	kubernetesVersion = "v1.36.3"
	containerdVersion = "v2.4.2"
	cniVersion        = "v1.10.0"
	corednsVersion    = "v1.15.0"
	etcdVersion       = "v3.7.3"
)

// kubernetesDo installs what a node needs.
const kubernetesDo = "run `scripts/setup --kubernetes`, which builds it in about 15 minutes"

// nodeProgramNames are the programs of a node that are no pods.
var nodeProgramNames = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "containerd",
}

// nodePrograms are the paths of folders and programs.
type nodePrograms struct {
	kube, containerd, cni, etcd string // folders
	coredns, pause, runc        string // programs
}

// nodeTrial does in namespaces of its own what a node needs from the kernel, and from
// the disk of temporary folders: containers are layers upon each other. It leaves out
// what it needs a program for that is not installed yet.
const nodeTrial = `unshare --mount --net --pid --uts --ipc --fork --kill-child bash -ec '
folder=$(mktemp -d)
trap "umount -q $folder/all || true; rm -rf $folder" EXIT
mkdir $folder/{lower,upper,work,all}
mount -t overlay overlay -o lowerdir=$folder/lower,upperdir=$folder/upper,workdir=$folder/work $folder/all
if command -v ip >/dev/null; then ip link add node0 type bridge; ip link add left type veth peer name right; fi
! command -v nft >/dev/null || nft "table ip trial { map to { type ipv4_addr . inet_proto . inet_service : verdict; }; chain out { type nat hook output priority -100; }; chain in { type filter hook forward priority 0; ct state new accept; }; }"
[[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]] || { echo "the kernel module br_netfilter is not loaded: run modprobe br_netfilter"; exit 1; }'`

// CheckNode returns why no Kubernetes node can run here: what is not installed, what
// only root may do, or what the kernel lacks.
func CheckNode(ctx context.Context) error {
	_, err := checkNode(ctx)
	return err
}

func checkNode(ctx context.Context) (nodePrograms, error) {
	if err := checkHost(); err != nil {
		return nodePrograms{}, err
	}
	programs, err := findNodePrograms()
	if os.Geteuid() != 0 {
		err = errors.Join(err, errNotRoot)
	}
	if err != nil {
		return nodePrograms{}, err
	}
	return programs, CheckMachine(ctx)
}

var errNotRoot = errors.New("only root can create its namespaces")

// CheckMachine is CheckNode without the programs, which take a quarter of an hour to
// build: it returns what only root may do, or what the kernel lacks. Nothing that can be
// installed helps against that.
func CheckMachine(ctx context.Context) error {
	if err := checkHost(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	missing := func(program string) bool {
		_, err := findProgram(program, source{})
		return err != nil
	}
	if slices.ContainsFunc([]string{"unshare", "bash", "mount"}, missing) {
		return nil // nothing can be tried: CheckNode, or a node that starts, names the program
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := shell(ctx, "try its namespaces", nodeTrial); err != nil {
		return err
	}
	return checkCgroups("/sys/fs/cgroup")
}

// checkCgroups returns what a kubelet needs of cgroups and does not find below root. In
// version 1 each controller is a folder, in version 2 a word in a file.
func checkCgroups(root string) error {
	needed, has := []string{"cpu", "cpuacct", "cpuset", "devices", "freezer", "memory", "pids"}, func(name string) bool {
		return exists(filepath.Join(root, name, "cgroup.procs"))
	}
	parent := filepath.Join(root, "memory")
	if list := filepath.Join(root, "cgroup.controllers"); exists(list) {
		// Only the machine's first cgroup may have processes of its own and hand its
		// controllers on. That of a container has the file cgroup.type.
		if exists(filepath.Join(root, "cgroup.type")) {
			list = filepath.Join(root, "cgroup.subtree_control")
		}
		text, err := os.ReadFile(list)
		if err != nil {
			return err
		}
		needed, has = []string{"cpu", "cpuset", "memory", "pids"}, func(name string) bool {
			return slices.Contains(strings.Fields(string(text)), name)
		}
		parent = root
	}
	if missing := slices.DeleteFunc(needed, has); len(missing) > 0 {
		return fmt.Errorf("%s does not offer the cgroup controllers %s", root, strings.Join(missing, ", "))
	}
	trial, err := os.MkdirTemp(parent, folderPrefix)
	if err != nil {
		return fmt.Errorf("cgroups cannot be created: %w", err) // a container's are often read-only
	}
	return os.Remove(trial)
}

// cgroupsOf returns the cgroups of that name that exist.
func cgroupsOf(name string) []string {
	found, _ := filepath.Glob("/sys/fs/cgroup/*/" + name) // the pattern is a good one
	if path := "/sys/fs/cgroup/" + name; exists(path) {
		found = append(found, path)
	}
	return found
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func findNodePrograms() (p nodePrograms, err error) {
	for path, name := range map[*string]string{
		&p.kube: "kube-" + kubernetesVersion, &p.containerd: "containerd-" + containerdVersion, &p.cni: "cni-" + cniVersion, &p.etcd: "etcd-" + etcdVersion,
		&p.coredns: "coredns-" + corednsVersion + "/coredns", &p.pause: "coredns-" + corednsVersion + "/pause",
	} {
		found, foundErr := kubernetesProgram(name)
		*path, err = found, errors.Join(err, foundErr)
	}
	var foundErr error
	p.runc, foundErr = findProgram("runc", source{"scripts/setup --kubernetes", "runc"})
	err = errors.Join(err, foundErr)
	for program, from := range map[string]string{"nft": "nftables", "ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux", "bash": "bash"} {
		_, foundErr := findProgram(program, source{"scripts/setup --kubernetes", from})
		err = errors.Join(err, foundErr)
	}
	return p, err
}
