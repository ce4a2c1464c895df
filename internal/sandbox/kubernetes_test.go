package sandbox_test

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/tier"
)

func TestKubernetesServesAndLeavesNothingBehind(t *testing.T) {
	tier.OnlyTestAll(t, "the Kubernetes API server")
	stack := sandboxtest.Start(t, sandbox.Config{EtcdNodes: 1})
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	k, err := sandbox.StartKubernetes(t.Context(), stack.EtcdEndpoints())
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	wantEmpty(t, temp)
}

func TestMissingKubernetesNamesItsScript(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, err := sandbox.StartKubernetes(t.Context(), nil)
	if err == nil || !strings.Contains(err.Error(), "scripts/setup --kubernetes") {
		t.Errorf("without a program: %v", err)
	}
}

// Two places name the versions: the modules that scripts/setup builds, and the sandbox.
func TestKubernetesVersionsAreThoseThatSetupBuilds(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, err := sandbox.StartNode(t.Context())
	if err == nil {
		t.Fatal("programs were found in an empty folder")
	}
	for folder, module := range map[string]string{
		"kube": "k8s.io/kubernetes", "kube/containerd": "github.com/containerd/containerd/v2", "kube/cni": "github.com/containernetworking/plugins",
		"kube/coredns": "github.com/coredns/coredns", "kube/etcd": "go.etcd.io/etcd/server/v3",
	} {
		text, readErr := os.ReadFile(filepath.Join(folder, "go.mod"))
		if readErr != nil {
			t.Fatal(readErr)
		}
		version := regexp.MustCompile(regexp.QuoteMeta(module) + ` (v[0-9.]+)`).FindStringSubmatch(string(text))
		if version == nil {
			t.Errorf("%s/go.mod does not require %s", folder, module)
			continue
		}
		if want := path.Base(folder) + "-" + version[1]; !strings.Contains(err.Error(), want) {
			t.Errorf("%s/go.mod makes it %s; the sandbox looks for others: %v", folder, want, err)
		}
	}
}
