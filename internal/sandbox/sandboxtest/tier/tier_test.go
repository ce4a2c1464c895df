package tier_test

import (
	"os"
	"path/filepath"
	"testing"

	"flashsale/internal/sandbox/sandboxtest/tier"
)

func TestSkippedTestIsRecorded(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ran := false
	skipped := func(t *testing.T) {
		tier.OnlyTestAll(t, "a cluster")
		ran = true
	}
	t.Setenv("FLASHSALE_TEST_LEFT_OUT", list)
	t.Setenv("FLASHSALE_TEST_EVERYTHING", "") // make test-all sets it for this test, too
	t.Run("skipped", skipped)
	if ran {
		t.Error("the test ran")
	}
	folder, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	want := folder + " " + t.Name() + "/skipped: a cluster\n"
	if got, err := os.ReadFile(list); err != nil || string(got) != want {
		t.Errorf("recorded %q, %v, want %q", got, err, want)
	}
	for name, set := range map[string]struct{ list, everything string }{"run alone": {}, "run by make test-all": {list, "yes"}} {
		t.Setenv("FLASHSALE_TEST_LEFT_OUT", set.list)
		t.Setenv("FLASHSALE_TEST_EVERYTHING", set.everything)
		ran = false
		if t.Run(name, skipped); !ran {
			t.Errorf("%s: the test did not run although all tests are to run", name)
		}
	}
}
