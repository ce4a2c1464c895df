package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/soak"
)

// TestAMinuteOfRandomCallsFindsNothing soaks three replicas that are killed and
// stopped meanwhile. Each run has a seed of its own.
func TestAMinuteOfRandomCallsFindsNothing(t *testing.T) {
	dir := t.TempDir()
	var out, progress bytes.Buffer
	err := run(t.Context(), []string{"soak", "--duration=1m", "--api=" + sandboxtest.Build(t, "api"), "--out=" + dir}, &out, &progress)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, progress.String(), out.String())
	}
	text, err := os.ReadFile(filepath.Join(dir, soakFile))
	if err != nil {
		t.Fatal(err)
	}
	var result soak.Result
	if err := json.Unmarshal(text, &result); err != nil {
		t.Fatal(err)
	}
	if !result.OK || result.Broken != 0 || result.Seed == 0 || result.Replicas != 3 {
		t.Errorf("%+v", result)
	}
	if result.Kills+result.Pauses == 0 || result.Orders == 0 {
		t.Errorf("%d kills, %d stops, %d orders: too little happened to say anything", result.Kills, result.Pauses, result.Orders)
	}
	called := map[string]bool{}
	for _, c := range result.Calls {
		called[c.Call+" "+c.Outcome] = true
	}
	for _, want := range []string{"place 201", "place 409 sold-out", "place again 201", "pay 200", "pay 409 payment-window-over", "cancel 200", "restock 201"} {
		if !called[want] {
			t.Errorf("never: %s", want)
		}
	}
	if !strings.Contains(out.String(), "Every answer was right.") {
		t.Error(out.String())
	}
}
