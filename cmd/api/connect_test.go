package main

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"flashsale/internal/strategy"
)

// The pages say how many connections a replica needs.
func TestPagesSayWhatConnectionsReplicasNeed(t *testing.T) {
	t.Parallel()
	c := serveCmd{capacityFlags: capacityFlags{MaxReplicas: 4}, backendFlags: backendFlags{mysqlFlags: mysqlFlags{Pool: 32}}}
	ours, err := strategy.Find(strategy.Default)
	if err != nil {
		t.Fatal(err)
	}
	beside := c.besidePool(ours)
	others := c.besidePool(strategy.Strategy{})
	for page, sentences := range map[string][]string{
		"README.md": {fmt.Sprintf("`--max-replicas` (%d by default) times %d", c.MaxReplicas, c.Pool+beside)},
		"docs/operations.md": {
			fmt.Sprintf("`--max-replicas` (%d)", c.MaxReplicas),
			fmt.Sprintf("| `etcd` | `--mysql-pool` and %d | %d |", beside, c.MaxReplicas*(c.Pool+beside)),
			fmt.Sprintf("| any other | `--mysql-pool`, a quarter of it (at least 2), and %d | %d |", others-c.lockPool(), c.MaxReplicas*(c.Pool+others)),
		},
	} {
		text, err := os.ReadFile("../../" + page)
		if err != nil {
			t.Fatal(err)
		}
		for _, sentence := range sentences {
			if !strings.Contains(string(text), sentence) {
				t.Errorf("%s lacks %q", page, sentence)
			}
		}
	}
	kubernetesHasConnections(t, map[string]int{"etcd": c.Pool + beside, "any other": c.Pool + others})
	help, err := tool(t, "serve", "--help")
	if err != nil || !strings.Contains(help, "(4).") || !strings.Contains(help, "--mysql-pool=32") {
		t.Errorf("the numbers of the pages differ from the flags: %v", err)
	}
}

// kubernetesHasConnections: in an update, each of the autoscaler's replicas may still be
// ending when the one that replaces it runs. MySQL must have connections for all of them.
func kubernetesHasConnections(t *testing.T, ofReplica map[string]int) {
	t.Helper()
	number := func(file, pattern string) int {
		text, err := os.ReadFile("../../deploy/kubernetes/" + file)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`(?m)` + pattern).FindSubmatch(text)
		if found == nil {
			t.Fatalf("%s has no %s", file, pattern)
		}
		n, err := strconv.Atoi(string(found[1]))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	most := number("production/autoscaler.yaml", `^  maxReplicas: (\d+)`)
	replicas := number("service/config.env", `^FLASHSALE_MAX_REPLICAS=(\d+)$`)
	if replicas < 2*most {
		t.Errorf("FLASHSALE_MAX_REPLICAS is %d, want twice the autoscaler's %d", replicas, most)
	}
	allowed := number("mysql/start.sh", `^\t--max-connections=(\d+) `)
	for name, connections := range ofReplica {
		if allowed <= replicas*connections {
			t.Errorf("strategy %s: MySQL allows %d connections, and %d replicas need %d", name, allowed, replicas, replicas*connections)
		}
	}
	if counted := number("mysql/start.sh", `^\t# (\d+) replicas x `); counted != replicas {
		t.Errorf("the comment in mysql/start.sh counts %d replicas, and there may be %d", counted, replicas)
	}
}
