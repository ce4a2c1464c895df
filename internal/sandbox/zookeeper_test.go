package sandbox_test

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

func TestMissingZooKeeperNamesItsPackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := sandbox.StartZooKeeper(t.Context(), 1); err == nil || !strings.Contains(err.Error(), "libzookeeper-java") {
		t.Errorf("without java: %v", err)
	}
}

func TestZooKeeperServesAndLeavesNothingBehind(t *testing.T) {
	tier.OnlyTestAll(t, "ZooKeeper")
	for _, nodes := range []int{1, 3} {
		t.Run(strconv.Itoa(nodes)+" nodes", func(t *testing.T) {
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			began := time.Now()
			z, err := sandbox.StartZooKeeper(t.Context(), nodes)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("started in %s", time.Since(began).Round(time.Millisecond))
			modes := map[string]int{}
			for _, node := range z.Nodes {
				status, err := node.Ask(t.Context(), "srvr")
				if err != nil {
					t.Fatal(err)
				}
				_, mode, _ := strings.Cut(status, "\nMode: ")
				mode, _, _ = strings.Cut(mode, "\n")
				modes[mode]++
			}
			if nodes == 1 && modes["standalone"] != 1 || nodes == 3 && (modes["leader"] != 1 || modes["follower"] != 2) {
				t.Errorf("modes %v", modes)
			}
			if nodes == 1 {
				node := z.Nodes[0]
				node.Kill()
				if err := node.Restart(t.Context()); err != nil {
					t.Error(err)
				}
			}
			if err := z.Close(); err != nil {
				t.Error(err)
			}
			for _, node := range z.Nodes {
				if err := node.Signal(os.Interrupt); !errors.Is(err, os.ErrProcessDone) {
					t.Errorf("a server still runs: %v", err)
				}
			}
			wantEmpty(t, temp)
		})
	}
}
