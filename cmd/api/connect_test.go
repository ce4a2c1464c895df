package main

import (
	"fmt"
	"os"
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
	help, err := tool(t, "serve", "--help")
	if err != nil || !strings.Contains(help, "(4).") || !strings.Contains(help, "--mysql-pool=32") {
		t.Errorf("the numbers of the pages differ from the flags: %v", err)
	}
}
