package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMissingCgroupsAreNamed(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string // "" if a node can run
	}{
		"version 1": {files: map[string]string{
			"cpu/cgroup.procs": "", "cpuacct/cgroup.procs": "", "cpuset/cgroup.procs": "", "devices/cgroup.procs": "",
			"freezer/cgroup.procs": "", "memory/cgroup.procs": "", "pids/cgroup.procs": "",
		}},
		"version 1 in part": {
			files: map[string]string{
				"cpu/cgroup.procs": "", "cpuacct/cgroup.procs": "", "devices/cgroup.procs": "", "freezer/cgroup.procs": "", "memory/cgroup.procs": "",
			},
			want: "does not offer the cgroup controllers cpuset, pids",
		},
		"version 2":            {files: map[string]string{"cgroup.controllers": "cpuset cpu io memory hugetlb pids\n", "cgroup.subtree_control": "memory\n"}},
		"version 2 without":    {files: map[string]string{"cgroup.controllers": "cpu memory\n"}, want: "controllers cpuset, pids"},
		"version 2, container": {files: map[string]string{"cgroup.type": "domain", "cgroup.controllers": "cpuset cpu memory pids", "cgroup.subtree_control": ""}, want: "controllers cpu, cpuset, memory, pids"},
		"no cgroups":           {want: "controllers cpu, cpuacct, cpuset, devices, freezer, memory, pids"},
	} {
		root := t.TempDir()
		for file, text := range c.files {
			path := filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		err := checkCgroups(root)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.HasSuffix(err.Error(), c.want)) {
			t.Errorf("%s: %v, want an error that ends %q", name, err, c.want)
		}
	}
}
