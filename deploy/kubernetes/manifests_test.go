package kubernetes_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	if err := os.CopyFS(filepath.Join(folder, "production/secrets"), os.DirFS("production/secrets.example")); err != nil {
		t.Fatal(err)
	}
	// A dry run stores nothing, so what it refers to must be there.
	kinds := strings.NewReplacer("NAME", "podmonitors", "KIND", "PodMonitor").Replace(operator) +
		strings.NewReplacer("NAME", "prometheusrules", "KIND", "PrometheusRule").Replace(operator)
	kubectl(kinds+"apiVersion: v1\nkind: Namespace\nmetadata: {name: flashsale}\n", "apply", "--server-side", "--filename=-")
	kubectl("", "wait", "--for=condition=Established", "--timeout=2m", "crd/podmonitors.monitoring.coreos.com", "crd/prometheusrules.monitoring.coreos.com")
	dryRun := []string{"apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "--filename=-"}
	for overlay, objects := range map[string]int{"demo": 34, "production": 34} {
		text := kubectl("", "kustomize", filepath.Join(folder, overlay))
		if accepted := strings.Count(kubectl(text, dryRun...), "\n"); accepted != objects {
			t.Errorf("%s: %d objects were accepted, want %d", overlay, accepted, objects)
		}
		if overlay == "production" && !strings.Contains(text, "\n  FLASHSALE_PAYMENTS: service\n") {
			t.Error("in production, every customer can mark their own orders as paid")
		}
		if overlay == "production" {
			checkCallers(t, text)
		}
		wrong := strings.Replace(text, "terminationGracePeriodSeconds", "terminationGraceSeconds", 1)
		if out, err := k.Kubectl(t.Context(), wrong, dryRun...); err == nil || !strings.Contains(err.Error(), "terminationGraceSeconds") {
			t.Errorf("%s: an unknown field was accepted: %v\n%s", overlay, err, out)
		}
		if got := secretsOf(text); !maps.Equal(got, wantSecrets) {
			t.Errorf("%s: pods have these secrets: %v, want %v", overlay, got, wantSecrets)
		}
	}
}

// checkCallers checks who reaches the replicas' port for customers: the ingress controller
// only. Its address is trusted to say who the caller is, so that another pod could forge that.
func checkCallers(t *testing.T, text string) {
	t.Helper()
	rules := regexp.MustCompile(`(?m)^  - (?:from:\n(?:    .*\n)*    )?ports:\n(?:    - .*\n)*    - port: http\n`).FindAllString(text, -1)
	const want = `  - from:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: ingress-nginx
    ports:
    - port: http
`
	if len(rules) != 1 || rules[0] != want {
		t.Errorf("in production, these rules open the port http: %q, want %q", rules, want)
	}
}

// wantSecrets are the Secrets of each workload's pods: no replica has a password of an owner
// or of root. Of the jobs of every day only the purge has one, because it deletes rows.
var wantSecrets = map[string]string{
	"Deployment flashsale":    "flashsale flashsale-etcd flashsale-mysql",
	"Job flashsale-migrate":   "flashsale-mysql-owner",
	"Job etcd-auth":           "flashsale-etcd flashsale-etcd-root",
	"CronJob flashsale-audit": "flashsale-mysql",
	"CronJob flashsale-purge": "flashsale-mysql-owner",
	"StatefulSet mysql":       "flashsale-mysql flashsale-mysql-group flashsale-mysql-owner",
}

var (
	kindAndName = regexp.MustCompile(`(?m)^kind: (\w+)\n(?:.*\n)*?metadata:\n(?:  .*\n)*?  name: (\S+)$`)
	secretRef   = regexp.MustCompile(`secret(?:Key)?Ref:\s+(?:key: \S+\s+)?name: (\S+)-[a-z0-9]{10}\n`)
)

// secretsOf lists the Secrets that each object of a rendered overlay refers to.
func secretsOf(text string) map[string]string {
	all := map[string]string{}
	for object := range strings.SplitSeq(text, "\n---\n") {
		found := kindAndName.FindStringSubmatch(object)
		var names []string
		for _, ref := range secretRef.FindAllStringSubmatch(object, -1) {
			names = append(names, ref[1])
		}
		slices.Sort(names)
		if names = slices.Compact(names); found != nil && len(names) > 0 {
			all[found[1]+" "+found[2]] = strings.Join(names, " ")
		}
	}
	return all
}

// The accounts of docker compose, which a test of tests/compose runs the service with,
// are those of the group, whose state the service must see, too.
func TestTheRightsAreThoseOfCompose(t *testing.T) {
	t.Parallel()
	grants := func(path string) []string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all := regexp.MustCompile(`GRANT .* TO 'flashsale(?:_owner)?'@'%';`).FindAllString(string(text), -1)
		return slices.DeleteFunc(all, func(grant string) bool {
			return strings.Contains(grant, "SELECT ON performance_schema.replication_group_members")
		})
	}
	if got, want := grants("mysql/start.sh"), grants("../compose/mysql-accounts.sh"); len(want) != 4 || !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Customers reach what the shop's page and those behind it link to, and neither metrics nor
// administrators' calls.
func TestTheIngressRoutesTheShopsLinks(t *testing.T) {
	t.Parallel()
	ingress, err := os.ReadFile("production/ingress.yaml")
	if err != nil {
		t.Fatal(err)
	}
	routes := regexp.MustCompile(`- \{path: (\S+), pathType: (Exact|Prefix),`).FindAllStringSubmatch(string(ingress), -1)
	routed := func(path string) bool {
		return slices.ContainsFunc(routes, func(route []string) bool {
			return path == route[1] || route[2] == "Prefix" && strings.HasPrefix(path, route[1]+"/")
		})
	}
	for _, page := range []string{"storefront.html", "docs.html", "error.html"} {
		text, err := os.ReadFile("../../internal/httpapi/pages/" + page)
		if err != nil {
			t.Fatal(err)
		}
		links := regexp.MustCompile(`(?:href|src)="(/[^"#?]*)`).FindAllStringSubmatch(string(text), -1)
		if len(links) == 0 {
			t.Errorf("%s has no links", page)
		}
		for _, link := range links {
			if !routed(link[1]) {
				t.Errorf("%s links to %s, which the Ingress does not route", page, link[1])
			}
		}
	}
	for _, path := range []string{"/metrics", "/admin", "/readyz", "/v1/admin/skus"} {
		if routed(path) {
			t.Errorf("the Ingress routes %s", path)
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
