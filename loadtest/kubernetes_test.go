package main

import (
	"io"
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
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	t.Run("it can", func(t *testing.T) {
		sandboxtest.NeedsNode(t)
		if err := run(t.Context(), []string{"kubernetes", "--check"}, io.Discard, io.Discard); err != nil {
			t.Error(err)
		}
	})
	t.Run("it cannot", func(t *testing.T) {
		tier.OnlyTestAll(t, "root, to drop a right")
		if os.Geteuid() != 0 {
			t.Log("only root has a right to lose")
			return
		}
		cmd := exec.Command("setpriv", "--bounding-set=-sys_admin", sandboxtest.Build(t, "loadtest"), "kubernetes", "--check")
		said, _ := cmd.CombinedOutput()
		if status := cmd.ProcessState.ExitCode(); status != 2 || !strings.Contains(string(said), "no Kubernetes node can run here: try its namespaces: ") {
			t.Errorf("without the right to create namespaces: status %d, %s", status, said)
		}
	})
}
