package tier_test

import (
	"os"
	"path/filepath"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

func TestTestsThatAreLeftOutAreWrittenDown(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ran := false
	leaveOut := func(t *testing.T) {
		tier.OnlyTestAll(t, "a cluster")
		ran = true
	}
	t.Setenv("FLASHSALE_TEST_LEFT_OUT", list)
	t.Run("left out", leaveOut)
	if ran {
		t.Error("the test has run")
	}
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	want := folder + " " + t.Name() + "/left_out: a cluster\n"
	if got, err := os.ReadFile(list); err != nil || string(got) != want {
		t.Errorf("written: %q, %v, want %q", got, err, want)
	}
	t.Setenv("FLASHSALE_TEST_LEFT_OUT", "")
	if t.Run("run", leaveOut); !ran {
		t.Error("without a smaller run, the test has not run")
	}
}
