package sandboxtest_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox/sandboxtest"
)

func TestBuiltProgramRuns(t *testing.T) {
	path := sandboxtest.Build(t, "etcdnode")
	if !filepath.IsAbs(path) {
		t.Errorf("%s is not an absolute path", path)
	}
	out, err := exec.Command(path, "--help").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "-initial-cluster") {
		t.Errorf("%s --help: %v\n%s", path, err, out)
	}
	out, err = exec.Command(path, "--name=n", "--data-dir=/nowhere", "--initial-cluster=n=http://127.0.0.1:1", "--client-url=127.0.0.1").CombinedOutput()
	if err == nil || !strings.HasPrefix(string(out), "etcd node n: --client-url:") {
		t.Errorf("a wrong --client-url: %v\n%s", err, out)
	}
}
