package main

import (
	"io"
	"strings"
	"testing"
)

// What a fail-over does is tested in package failover.
func TestBadFlagsOfClustersAreNamed(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"failover --faults bored", `--faults: unknown fault "bored"`},
		{"failover --runs 0", "--runs must"},
		{"failover --buyers 0", "--buyers must"},
		{"failover --rate 0", "--rate must"},
		{"failover --replicas 0", "--replicas must"},
		{"failover --api /nope", "/nope"},
		{"failover --api /bin/true --out /dev/null/x", "/dev/null"},
		{"prove --api /bin/true --mysql-nodes 2", "--mysql-nodes"},
		{"prove --api /bin/true --mysql-nodes 3 --mysql-dsn u:p@tcp(h)/", "--mysql-nodes is for a private database"},
	} {
		err := run(t.Context(), strings.Fields(tt.args), io.Discard, io.Discard)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want an error with %q", tt.args, err, tt.want)
		}
	}
}
