package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

// A machine often has no kubectl, and one on PATH would not be in the node's network.
func TestKeptNodeIsUsedByItsOwnKubectl(t *testing.T) {
	t.Parallel()
	got := keptNode([]string{"nsenter", "--target=7", "--net", "--", "/cache/kube/kubectl", "--kubeconfig=/node/config"}, "kill 7")
	for _, want := range []string{"\n  nsenter --target=7 --net -- /cache/kube/kubectl --kubeconfig=/node/config get pods -n flashsale\n", "\nStop it: kill 7\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

// make kubernetes checks this before it builds a node's programs, which takes a quarter
// of an hour.
func TestMachineIsCheckedWithoutTheProgramsOfANode(t *testing.T) {
	// Of this machine's programs, but not of the tests' build: go keeps its cache there, too.
	noPrograms := "XDG_CACHE_HOME=" + t.TempDir()
	program := sandboxtest.Build(t, "loadtest")
	check := func(argv ...string) (said string, status int) {
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), noPrograms)
		text, _ := cmd.CombinedOutput() // the status says whether it failed
		return string(text), cmd.ProcessState.ExitCode()
	}
	t.Run("it can", func(t *testing.T) {
		sandboxtest.NeedsNode(t)
		if said, status := check(program, "kubernetes", "--check"); status != 0 {
			t.Errorf("status %d, %s", status, said)
		}
	})
	t.Run("it cannot", func(t *testing.T) {
		tier.OnlyTestAll(t, "root, to drop a right")
		if os.Geteuid() != 0 {
			t.Log("only root has a right to lose")
			return
		}
		said, status := check("setpriv", "--bounding-set=-sys_admin", program, "kubernetes", "--check")
		if status != 2 || !strings.Contains(said, "no Kubernetes node can run here: try its namespaces: ") {
			t.Errorf("without the right to create namespaces: status %d, %s", status, said)
		}
	})
}
