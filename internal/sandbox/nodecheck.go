package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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
const kubernetesDo = "run `scripts/setup --kubernetes`, which builds it in about 10 minutes"

// nodeProgramNames are the programs of a node that are no pods.
var nodeProgramNames = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "containerd",
}

// nodePrograms are the paths of folders and programs.
type nodePrograms struct {
	kube, containerd, cni, etcd string // folders
	coredns, pause, runc        string // programs
}

// nodeTrial does in namespaces of its own what a node needs from the kernel.
const nodeTrial = `unshare --mount --net --pid --uts --ipc --fork --kill-child bash -ec '
mount -t tmpfs tmpfs /run
mkdir /run/{lower,upper,work,all}
mount -t overlay overlay -o lowerdir=/run/lower,upperdir=/run/upper,workdir=/run/work /run/all
ip link add node0 type bridge
ip link add left type veth peer name right
nft "table ip trial { map to { type ipv4_addr . inet_proto . inet_service : verdict; }; chain out { type nat hook output priority -100; }; chain in { type filter hook forward priority 0; ct state new accept; }; }"
[[ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]] || { echo "the kernel module br_netfilter is not loaded: run modprobe br_netfilter" >&2; exit 1; }'`

// checkNode returns why no node can run here.
func checkNode(ctx context.Context) (nodePrograms, error) {
	if err := checkHost(); err != nil {
		return nodePrograms{}, err
	}
	programs, err := findNodePrograms()
	if os.Geteuid() != 0 {
		err = errors.Join(err, errors.New("only root can create its namespaces"))
	}
	if err != nil {
		return nodePrograms{}, err
	}
	if err := shell(ctx, "try its namespaces", nodeTrial); err != nil {
		return nodePrograms{}, err
	}
	return programs, checkCgroups("/sys/fs/cgroup")
}

// checkCgroups returns which of the controllers that a kubelet needs are missing. They
// are folders in version 1, and lines of a file in version 2.
func checkCgroups(root string) error {
	version2, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	has := func(name string) bool {
		return strings.Contains(" "+strings.TrimSpace(string(version2))+" ", " "+name+" ")
	}
	needed := []string{"cpu", "cpuset", "memory", "pids"}
	if errors.Is(err, fs.ErrNotExist) {
		needed = append(needed, "cpuacct", "devices", "freezer")
		has = func(name string) bool {
			_, err := os.Stat(filepath.Join(root, name, "cgroup.procs"))
			return err == nil
		}
	}
	var missing []string
	for _, name := range needed {
		if !has(name) {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return fmt.Errorf("%s has no cgroup controller %s", root, strings.Join(missing, ", "))
	}
	// A container's view of its cgroups is often read-only.
	trial, err := os.MkdirTemp(filepath.Join(root, map[bool]string{true: "", false: "memory"}[version2 != nil]), folderPrefix)
	if err != nil {
		return fmt.Errorf("create a cgroup: %w", err)
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
