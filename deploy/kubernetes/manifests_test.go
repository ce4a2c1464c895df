package kubernetes_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

var servers *sandbox.Stack

func TestMain(m *testing.M) { sandboxtest.Main(m, sandbox.Config{EtcdNodes: 1}, &servers) }

// The kinds of the Prometheus operator, without their schemas.
const operator = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: NAME.monitoring.coreos.com}
spec:
  group: monitoring.coreos.com
  scope: Namespaced
  names: {kind: KIND, plural: NAME}
  versions:
    - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
---
`

// A real API server accepts all objects of each overlay, and knows each of their fields.
func TestTheAPIServerAcceptsTheManifests(t *testing.T) {
	t.Parallel()
	k, err := sandbox.StartKubernetes(t.Context(), servers.EtcdEndpoints())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	kubectl := func(input string, args ...string) string {
		t.Helper()
		out, err := k.Kubectl(t.Context(), input, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS(".")); err != nil {
		t.Fatal(err)
	}
	secrets, err := os.ReadFile("production/secrets.env.example")
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, "production/secrets.env"), secrets, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	// A dry run stores nothing, so what it refers to must be there.
	kinds := strings.NewReplacer("NAME", "servicemonitors", "KIND", "ServiceMonitor").Replace(operator) +
		strings.NewReplacer("NAME", "prometheusrules", "KIND", "PrometheusRule").Replace(operator)
	kubectl(kinds+"apiVersion: v1\nkind: Namespace\nmetadata: {name: flashsale}\n", "apply", "--server-side", "--filename=-")
	kubectl("", "wait", "--for=condition=Established", "--timeout=2m", "crd/servicemonitors.monitoring.coreos.com", "crd/prometheusrules.monitoring.coreos.com")
	dryRun := []string{"apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename=-"}
	for overlay, objects := range map[string]int{"demo": 28, "production": 27} {
		text := kubectl("", "kustomize", filepath.Join(folder, overlay))
		if accepted := strings.Count(kubectl(text, dryRun...), "\n"); accepted != objects {
			t.Errorf("%s: %d objects were accepted, want %d", overlay, accepted, objects)
		}
		wrong := strings.Replace(text, "terminationGracePeriodSeconds", "terminationGraceSeconds", 1)
		if out, err := k.Kubectl(t.Context(), wrong, dryRun...); err == nil || !strings.Contains(err.Error(), "terminationGraceSeconds") {
			t.Errorf("%s: an unknown field was accepted: %v\n%s", overlay, err, out)
		}
	}
}

// The rules of the operator are those of deploy/prometheus.
func TestTheRulesAreTheSame(t *testing.T) {
	t.Parallel()
	want, err := os.ReadFile("../prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("monitoring/rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, groups, _ := strings.Cut(string(want), "\ngroups:")
	var lines []string
	for line := range strings.Lines("groups:" + groups) {
		if strings.TrimSpace(line) != "" {
			line = "  " + line
		}
		lines = append(lines, line)
	}
	if _, spec, _ := strings.Cut(string(got), "\nspec:\n"); spec != strings.Join(lines, "") {
		t.Error("monitoring/rules.yaml differs from ../prometheus/alerts.yml: copy its groups below spec, two columns to the right")
	}
}
