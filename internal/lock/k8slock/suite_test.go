package k8slock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

const (
	testTTL       = 2 * time.Second
	testNamespace = "sale"
	manifests     = "../../../deploy/kubernetes/locks/"
	// longTTL is longer than the tests wait, so that the end of a lease cannot make them
	// pass.
	longTTL = time.Minute
	// noticeTTL is for what happens a few times a TTL, or at its end. It is long enough
	// that a busy machine does not lose the lease.
	noticeTTL = 6 * time.Second
)

var leaseBackend = locktest.Backend{
	Name: "kubernetes", Capabilities: LeaseCapabilities, TTL: testTTL,
	LongTTL: longTTL, Open: openWith(NewLease),
	Start: func(tb testing.TB) locktest.Server { return leaseServer{start(tb)} },
}

var stockBackend = locktest.Backend{
	Name: "stocklock", Capabilities: StockCapabilities, TTL: testTTL,
	LongTTL: longTTL, Open: openWith(NewStock),
	Start: func(tb testing.TB) locktest.Server { return stockServer{start(tb)} },
}

func TestMain(m *testing.M) { locktest.Main(m, leaseBackend, stockBackend) }

func TestLease(t *testing.T) {
	t.Parallel()
	locktest.Run(t, leaseBackend)
}

func TestStock(t *testing.T) {
	t.Parallel()
	locktest.Run(t, stockBackend)
}

// address is the server's address and credentials, as passed to a child process.
type address struct {
	URL, Token string
	CA         []byte
}

// openWith returns the Open of a back-end.
func openWith[L lock.Locker](newLocker func(Config) (L, error)) func(string, time.Duration) (lock.Locker, func() error, error) {
	return func(text string, ttl time.Duration) (lock.Locker, func() error, error) {
		var at address
		if err := json.Unmarshal([]byte(text), &at); err != nil {
			return nil, nil, err
		}
		cfg := testConfig(at)
		cfg.TTL = ttl
		locker, err := newLocker(cfg)
		return locker, func() error { return nil }, err
	}
}

func testConfig(at address) Config {
	return Config{REST: at.config(), Namespace: testNamespace, TTL: longTTL, Owner: "r@h:1"}
}

func (a address) config() *rest.Config {
	return &rest.Config{Host: a.URL, BearerToken: a.Token, TLSClientConfig: rest.TLSClientConfig{CAData: a.CA}}
}

// server is an API server with our manifests, and an administrator's client.
type server struct {
	*sandbox.Kubernetes
	sandboxtest.Processes
	client  *dynamic.DynamicClient
	account address // of the service account
}

// start starts a server with our manifests. The Lockers use the service account of
// rbac.yaml, and so need no other rights.
func start(tb testing.TB) *server {
	tb.Helper()
	stack := sandboxtest.Start(tb, sandbox.Config{EtcdNodes: 1})
	k, err := sandbox.StartKubernetes(tb.Context(), stack.EtcdEndpoints())
	if err != nil {
		tb.Fatal(err)
	}
	config := address{URL: k.URL, Token: k.Token, CA: k.CA}.config()
	config.QPS = -1
	web, err := rest.HTTPClientFor(config)
	if err != nil {
		tb.Fatal(err)
	}
	client, err := dynamic.NewForConfigAndClient(config, web)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		web.CloseIdleConnections()
		if err := k.Close(); err != nil {
			tb.Error(err)
		}
	})
	s := &server{Kubernetes: k, Processes: sandboxtest.Processes{k.Process}, client: client}
	namespace := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": testNamespace},
	}}
	s.apply(tb, "", namespace)
	s.applyFile(tb, "", "stocklock.yaml")
	s.applyFile(tb, testNamespace, "rbac.yaml")
	s.awaitKind(tb)
	s.account = address{URL: k.URL, Token: s.tokenOf(tb, "flashsale"), CA: k.CA}
	return s
}

// resources are the resources of the kinds in our manifests.
var resources = map[string]schema.GroupVersionResource{
	"Namespace":                {Version: "v1", Resource: "namespaces"},
	"ServiceAccount":           {Version: "v1", Resource: "serviceaccounts"},
	"CustomResourceDefinition": {Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"},
	"Role":                     {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "roles"},
	"RoleBinding":              {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"},
}

// applyFile does what kubectl apply --server-side -n namespace -f does.
func (s *server) applyFile(tb testing.TB, namespace, name string) {
	tb.Helper()
	text, err := os.ReadFile(manifests + name)
	if err != nil {
		tb.Fatal(err)
	}
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		var object unstructured.Unstructured
		err := decoder.Decode(&object.Object)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			tb.Fatalf("%s: %v", name, err)
		}
		s.apply(tb, namespace, &object)
	}
}

func (s *server) apply(tb testing.TB, namespace string, object *unstructured.Unstructured) {
	tb.Helper()
	for _, subject := range subjectsOf(object) { // as kubectl does
		subject["namespace"] = namespace
	}
	resource, ok := resources[object.GetKind()]
	if !ok {
		tb.Fatalf("unknown kind %s", object.GetKind())
	}
	options := metav1.ApplyOptions{FieldManager: "test"}
	if _, err := s.client.Resource(resource).Namespace(namespace).Apply(tb.Context(), object.GetName(), object, options); err != nil {
		tb.Fatalf("apply %s %s: %v", object.GetKind(), object.GetName(), err)
	}
}

func subjectsOf(object *unstructured.Unstructured) (all []map[string]any) {
	list, _, _ := unstructured.NestedSlice(object.Object, "subjects")
	for _, one := range list {
		if subject, ok := one.(map[string]any); ok {
			all = append(all, subject)
		}
	}
	return all
}

// awaitKind waits until the server knows StockLocks.
func (s *server) awaitKind(tb testing.TB) {
	tb.Helper()
	sandboxtest.Eventually(tb, "the custom resource", func() bool {
		_, err := s.client.Resource(stockLocks).Namespace(testNamespace).List(tb.Context(), metav1.ListOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			tb.Fatal(err)
		}
		return err == nil
	})
}

// tokenOf requests a service account's token, as a kubelet does for a pod.
func (s *server) tokenOf(tb testing.TB, account string) string {
	tb.Helper()
	request := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": map[string]any{"name": account},
		"spec": map[string]any{},
	}}
	answer, err := s.client.Resource(resources["ServiceAccount"]).Namespace(testNamespace).
		Create(tb.Context(), request, metav1.CreateOptions{}, "token")
	if err != nil {
		tb.Fatal(err)
	}
	token, _, _ := unstructured.NestedString(answer.Object, "status", "token")
	return token
}

func (s *server) Address() string {
	text, _ := json.Marshal(s.account) // cannot fail: strings and bytes
	return string(text)
}

// object returns the object of a name, or nil before its first lock.
func (s *server) object(tb testing.TB, kind schema.GroupVersionResource, name string) *unstructured.Unstructured {
	tb.Helper()
	found, err := s.client.Resource(kind).Namespace(testNamespace).Get(tb.Context(), nameOf(tb, name), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// nameOf returns the name of a lock's object.
func nameOf(tb testing.TB, name string) string {
	tb.Helper()
	object, err := objectName(name)
	if err != nil {
		tb.Fatal(err)
	}
	return object
}

// patch changes the object that contains entry.
func (s *server) patch(tb testing.TB, kind schema.GroupVersionResource, entry string, change func(map[string]any), parts ...string) {
	tb.Helper()
	client := s.client.Resource(kind).Namespace(testNamespace)
	for {
		list, err := client.List(tb.Context(), metav1.ListOptions{})
		if err != nil {
			tb.Fatal(err)
		}
		var found *unstructured.Unstructured
		for i := range list.Items {
			if strings.Contains(fmt.Sprint(list.Items[i].Object), entry) {
				found = &list.Items[i]
			}
		}
		if found == nil {
			tb.Fatalf("no object contains %s", entry)
		}
		change(found.Object)
		_, err = client.Update(tb.Context(), found, metav1.UpdateOptions{}, parts...)
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) {
			tb.Fatal(err)
		}
	}
}

// leaseServer reads Leases. Waiters have no entries.
type leaseServer struct{ *server }

// Entries returns the holder until its lease ends. Server and test have one clock.
func (s leaseServer) Entries(tb testing.TB, name string) []string {
	tb.Helper()
	object := s.object(tb, leaseKind, name)
	if object == nil {
		return nil
	}
	found, err := decode[leaseObject](object)
	if err != nil {
		tb.Fatal(err)
	}
	if found.holder() == "" || time.Since(found.Spec.RenewTime.Time) > time.Duration(*found.Spec.LeaseDurationSeconds)*time.Second {
		return nil
	}
	return []string{found.holder()}
}

func (s leaseServer) Remove(tb testing.TB, entry string) {
	tb.Helper()
	s.patch(tb, leaseKind, entry, func(object map[string]any) {
		unstructured.RemoveNestedField(object, "spec", "holderIdentity")
	})
}

func (s leaseServer) Revoke(tb testing.TB, entry string) { s.Remove(tb, entry) }

// stockServer reads StockLocks.
type stockServer struct{ *server }

func (s stockServer) Entries(tb testing.TB, name string) []string {
	tb.Helper()
	object := s.object(tb, stockLocks, name)
	if object == nil {
		return nil
	}
	found, err := decode[stockLock](object)
	if err != nil {
		tb.Fatal(err)
	}
	var entries []string
	if found.Status.ID != "" {
		entries = append(entries, found.Status.ID)
	}
	for _, w := range found.Status.Queue {
		entries = append(entries, w.ID)
	}
	return entries
}

func (s stockServer) Remove(tb testing.TB, entry string) {
	tb.Helper()
	s.patch(tb, stockLocks, entry, func(object map[string]any) {
		found, err := decode[stockLock](&unstructured.Unstructured{Object: object})
		if err != nil {
			tb.Fatal(err)
		}
		found.Status.keep(func(id string) bool { return id != entry })
		changed, err := encode(found)
		if err != nil {
			tb.Fatal(err)
		}
		object["status"] = changed.Object["status"]
	}, "status")
}

func (s stockServer) Revoke(tb testing.TB, entry string) { s.Remove(tb, entry) }
