package sandbox_test

import (
	"os"
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

// Two places name the version: kubeapiserver/go.mod and the sandbox.
func TestKubernetesVersionIsTheOneThatSetupBuilds(t *testing.T) {
	module, err := os.ReadFile("kubeapiserver/go.mod")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	_, err = sandbox.StartKubernetes(t.Context(), nil)
	if err == nil {
		t.Fatal("a program was found in an empty folder")
	}
	_, version, _ := strings.Cut(string(module), "k8s.io/kubernetes ")
	version, _, _ = strings.Cut(version, "\n")
	if !strings.Contains(err.Error(), "kube-apiserver-"+version+" ") {
		t.Errorf("kubeapiserver/go.mod has version %q, the sandbox looks for another: %v", version, err)
	}
}
