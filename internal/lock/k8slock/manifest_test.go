package k8slock

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// table is the output of kubectl get.
type table struct {
	ColumnDefinitions []struct{ Name string }
	Rows              []struct{ Cells []any }
}

// table sends the request of kubectl get.
func (s *server) table(t *testing.T) (shown table) {
	t.Helper()
	web, err := rest.HTTPClientFor(address{URL: s.URL, Token: s.Token, CA: s.CA}.config())
	if err != nil {
		t.Fatal(err)
	}
	defer web.CloseIdleConnections()
	url := s.URL + "/apis/flashsale.internal/v1/namespaces/" + testNamespace + "/stocklocks"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	answer, err := web.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &shown); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return shown
}

// TestOneServer tests the manifests, and the faults, on one server, because a server
// takes seconds to start.
func TestOneServer(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *server)
	}{
		{"KubectlShowsHolderAndNumberOfWaiters", kubectlShows},
		{"AskCreatesNothing", askCreatesNothing},
		{"AReplicaMayNotDelete", replicaCannotDelete},
		{"AReplicaMayNotWriteSpecs", replicaCannotWriteSpecs},
		{"ATokenNeverFalls", tokenNeverFalls},
		{"APermanentErrorFailsAtOnce", refusedForGood},
		{"AMissingResourceIsAnError", withoutTheResource},
		{"TheNamespaceIsTheSource", namespaceIsTheSource},
		{"AnOperatorListsAndRevokesGrants", operatorSeesAndEnds},
		{"KubectlShowsEvents", kubectlShowsEvents},
		{"KubectlWaitsForAHolder", kubectlWaits},
		{"ManyGrantsAreOneEvent", eventsAreAggregated},
		{"EventsDelayNoLock", eventsDelayNoLock},
		{"ALockNeedsNoRightToEvents", noRightToEvents},
		{"Faults", faults},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s) })
	}
}

func kubectlShows(t *testing.T, s *server) {
	here, there := s.stock(t, Config{}), s.stock(t, Config{})
	held := locktest.MustLock(t, here, "Lamp")
	locktest.MustUnlock(t, held)
	held = locktest.MustLock(t, there, "Lamp")
	waiter := locktest.LockAside(t, here, "Lamp")
	sandboxtest.Await(t, held.Contended(), "Contended")

	shown := s.table(t)
	columns := make([]string, len(shown.ColumnDefinitions))
	for i, column := range shown.ColumnDefinitions {
		columns[i] = column.Name
	}
	if want := []string{"Name", "Lock", "Holder", "Token", "Waiting", "Since", "Age"}; !slices.Equal(columns, want) {
		t.Fatalf("columns %q, want %q", columns, want)
	}
	var rows [][]any
	for _, row := range shown.Rows {
		if row.Cells[0] == nameOf(t, "Lamp") {
			rows = append(rows, row.Cells[1:5])
		}
	}
	if want := [][]any{{"Lamp", "r@h:1", 2.0, 1.0}}; !cmp.Equal(rows, want) {
		t.Errorf("rows %v, want %v", rows, want)
	}
	locktest.MustUnlock(t, held)
	locktest.MustUnlock(t, waiter.Granted(t))
}

// replica returns a client with the rights of rbac.yaml.
func (s *server) replica(t *testing.T) *dynamic.DynamicClient {
	t.Helper()
	web, err := rest.HTTPClientFor(s.account.config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(web.CloseIdleConnections)
	client, err := dynamic.NewForConfigAndClient(s.account.config(), web)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func askCreatesNothing(t *testing.T, s *server) {
	leases, locks := s.lease(t, Config{}), s.stock(t, Config{})
	elsewhere := s.config(Config{})
	elsewhere.Namespace = "default" // where a replica has no rights
	refused, err := NewLease(elsewhere)
	locktest.Opened(t, refused, err)
	for range 2 { // the first must not have created the object
		if err := errors.Join(leases.Ask(t.Context()), locks.Ask(t.Context())); err != nil {
			t.Error(err)
		}
		if err := refused.Ask(t.Context()); !apierrors.IsForbidden(err) {
			t.Errorf("Ask without the right to create: %v, want forbidden", err)
		}
	}
	if _, err := leases.store.objects.get(t.Context(), nameOf(t, probeName)); !apierrors.IsNotFound(err) {
		t.Errorf("read the Lease after Ask: %v, want not found", err)
	}
	if _, err := locks.get(t.Context(), nameOf(t, probeName)); !apierrors.IsNotFound(err) {
		t.Errorf("read the StockLock after Ask: %v, want not found", err)
	}
}

func replicaCannotDelete(t *testing.T, s *server) {
	locktest.MustUnlock(t, locktest.MustLock(t, s.stock(t, Config{}), "kept"))
	locktest.MustUnlock(t, locktest.MustLock(t, s.lease(t, Config{}), "kept"))
	for _, kind := range []string{"leases", "stocklocks"} {
		resource := stockLocks
		if kind == "leases" {
			resource = leaseKind
		}
		err := s.replica(t).Resource(resource).Namespace(testNamespace).Delete(t.Context(), nameOf(t, "kept"), metav1.DeleteOptions{})
		if !apierrors.IsForbidden(err) {
			t.Errorf("delete an object of %s: %v, want forbidden", kind, err)
		}
	}
}

func replicaCannotWriteSpecs(t *testing.T, s *server) {
	locktest.MustUnlock(t, locktest.MustLock(t, s.stock(t, Config{}), "spec"))
	object := s.object(t, stockLocks, "spec")
	_, err := s.replica(t).Resource(stockLocks).Namespace(testNamespace).Update(t.Context(), object, metav1.UpdateOptions{})
	if !apierrors.IsForbidden(err) {
		t.Errorf("update of the spec by a replica: %v, want forbidden", err)
	}
	if err := unstructured.SetNestedField(object.Object, "another", "spec", "lock"); err != nil {
		t.Fatal(err)
	}
	_, err = s.client.Resource(stockLocks).Namespace(testNamespace).Update(t.Context(), object, metav1.UpdateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "keeps its name") {
		t.Errorf("change of the name by an administrator: %v, want invalid", err)
	}
}

func tokenNeverFalls(t *testing.T, s *server) {
	locktest.MustUnlock(t, locktest.MustLock(t, s.stock(t, Config{}), "token"))
	for what, change := range map[string]func(*record){
		"a token never falls":             func(r *record) { r.Token-- },
		"a new grant has a larger token":  func(r *record) { r.ID, r.Holder = "x-1", "x" },
		"should be greater than or equal": func(r *record) { r.Token = -1 },
	} {
		found, err := decode[stockLock](s.object(t, stockLocks, "token"))
		if err != nil {
			t.Fatal(err)
		}
		change(&found.Status)
		object, err := encode(found)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.client.Resource(stockLocks).Namespace(testNamespace).UpdateStatus(t.Context(), object, metav1.UpdateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), what) {
			t.Errorf("update: %v, want %q", err, what)
		}
	}
}

// refusedForGood: a retry cannot succeed.
func refusedForGood(t *testing.T, s *server) {
	unknown := s.account
	unknown.Token = "unknown"
	elsewhere := testConfig(s.account)
	elsewhere.Namespace = "elsewhere"
	for what, cfg := range map[string]Config{
		"Unauthorized": testConfig(unknown),
		"forbidden":    elsewhere,
	} {
		for kind, newLocker := range kinds {
			l := opened(t, newLocker, cfg)
			for call, err := range map[string]error{"Lock": lockError(t, l.Lock), "TryLock": lockError(t, l.TryLock)} {
				if err == nil || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), s.URL) {
					t.Errorf("%s of a %s: %v, want %s at %s", call, kind, err, what, s.URL)
				}
			}
		}
	}
	nowhere := testConfig(address{URL: s.URL, Token: s.Token, CA: s.CA})
	nowhere.Namespace = "nowhere"
	l := opened(t, NewStock, nowhere)
	if err := lockError(t, l.Lock); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("Lock in a missing namespace: %v, want its name", err)
	}
}

func withoutTheResource(t *testing.T, s *server) {
	l := opened(t, NewStock, testConfig(address{URL: s.URL, Token: s.Token, CA: s.CA}))
	l.kind = s.client.Resource(stockLocks.GroupVersion().WithResource("stocklocks2")).Namespace(testNamespace)
	if _, err := l.get(t.Context(), "x"); err == nil || isMissing(err) || !l.isFinal(err) {
		t.Errorf("read without the resource: %v, want a final error that is not missing", err)
	}
	if err := lockError(t, l.Lock); err == nil || !strings.Contains(err.Error(), s.URL) {
		t.Errorf("Lock without the resource: %v, want the server's address", err)
	}
}

func namespaceIsTheSource(t *testing.T, s *server) {
	namespace, err := s.client.Resource(resources["Namespace"]).Get(t.Context(), testNamespace, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for kind, newLocker := range kinds {
		l := opened(t, newLocker, testConfig(s.account))
		if source, err := l.Source(t.Context()); err != nil || source != string(namespace.GetUID()) {
			t.Errorf("%s: source %q, %v, want %q", kind, source, err, namespace.GetUID())
		}
	}
}

func operatorSeesAndEnds(t *testing.T, s *server) {
	for kind, newLocker := range kinds {
		t.Run(kind, func(t *testing.T) {
			here := opened(t, newLocker, s.config(Config{}))
			there := opened(t, newLocker, s.config(Config{}))
			asked := time.Now().Add(-time.Second) // more than the resolution of the times
			first := locktest.MustLock(t, here, "seen")
			second := locktest.MustLock(t, there, "Seen")
			waiter := locktest.LockAside(t, there, "seen")
			want := []lock.Info{
				{Name: "Seen", Holder: "r@h:1", Replica: "r", Token: second.Token()},
				{Name: "seen", Holder: "r@h:1", Replica: "r", Token: first.Token()},
			}
			if first.Contended() != nil {
				sandboxtest.Await(t, first.Contended(), "Contended")
				want[1].Queue = []string{"r@h:1"}
			}
			got, err := there.Inspect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(lock.Info{}, "Since")); diff != "" {
				t.Fatal(diff)
			}
			for _, info := range got {
				if info.Since.Before(asked) || info.Since.After(time.Now()) {
					t.Errorf("%s is held since %s, want between %s and now", info.Name, info.Since, asked)
				}
			}
			if err := there.Revoke(t.Context(), "seen"); err != nil {
				t.Fatal(err)
			}
			sandboxtest.Await(t, first.Lost(), "the loss")
			locktest.MustUnlock(t, waiter.Granted(t))
			locktest.MustUnlock(t, second)
			for _, name := range []string{"seen", "never seen"} {
				if err := there.Revoke(t.Context(), name); !errors.Is(err, lock.ErrNotHeld) {
					t.Errorf("Revoke of %s, which is free: %v, want %v", name, err, lock.ErrNotHeld)
				}
			}
			if got, err := there.Inspect(t.Context()); err != nil || len(got) != 0 {
				t.Errorf("Inspect returned %+v, %v, want nothing", got, err)
			}
		})
	}
}
