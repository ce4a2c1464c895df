package k8slock

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// kubectl runs kubectl in the test's namespace, as an administrator.
func (s *server) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience) // kubectl has to start
	defer cancel()
	out, err := s.Kubectl(ctx, "", append([]string{"-n", testNamespace}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// awaitEvent waits until kubectl events shows a line with all texts.
func (s *server) awaitEvent(t *testing.T, name string, texts ...string) {
	t.Helper()
	sandboxtest.Eventually(t, fmt.Sprintf("an event with %q", texts), func() bool {
		for line := range strings.Lines(s.kubectl(t, "events", "--for=stocklock/"+nameOf(t, name))) {
			found := true
			for _, text := range texts {
				found = found && strings.Contains(line, text)
			}
			if found {
				return true
			}
		}
		return false
	})
}

func kubectlShowsEvents(t *testing.T, s *server) {
	l := s.stock(t, Config{})
	locktest.MustUnlock(t, locktest.MustLock(t, l, "Events"))
	s.awaitEvent(t, "Events", "Normal", "Granted", "r@h:1 holds the lock with token 1")
	s.setStatus(t, "Events", func(r *record) {
		r.Queue = append(r.Queue, waiter{Holder: "x@y:1", ID: "dead-1"})
		r.grant(testTTL, time.Now())
	})
	held := locktest.MustLock(t, l, "Events")
	s.awaitEvent(t, "Events", "Warning", "TakenOver", "r@h:1 ended the grant of x@y:1 with token 2, which was not renewed for ")
	s.awaitEvent(t, "Events", "Granted", "(x2 over ", "token 3")
	if err := l.Revoke(t.Context(), "Events"); err != nil {
		t.Fatal(err)
	}
	sandboxtest.Await(t, held.Lost(), "the loss")
	if err := held.Unlock(t.Context()); !errors.Is(err, lock.ErrLost) {
		t.Errorf("Unlock: %v, want %v", err, lock.ErrLost)
	}
	s.awaitEvent(t, "Events", "Warning", "Lost", "r@h:1 lost the lock, which it held with token 3")
	l.recorder.mu.Lock()
	defer l.recorder.mu.Unlock()
	for _, reason := range []string{reasonLost, reasonTakenOver} {
		if n := l.recorder.all[cause{nameOf(t, "Events"), s.object(t, stockLocks, "Events").GetUID(), reason}].count; n != 1 {
			t.Errorf("%s was noted %d times, want once", reason, n)
		}
	}
}

// eventsAreAggregated: many grants are one object, which is written once a second.
func eventsAreAggregated(t *testing.T, s *server) {
	const grants = 60
	l := s.stock(t, Config{})
	began := time.Now()
	changes, err := s.client.Resource(eventKind).Namespace(testNamespace).Watch(t.Context(), metav1.ListOptions{
		FieldSelector: "involvedObject.name=" + nameOf(t, "busy"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	for range grants {
		locktest.MustUnlock(t, locktest.MustLock(t, l, "busy"))
		time.Sleep(20 * time.Millisecond) // the pauses span several intervals
	}
	var writes int
	for count := int64(0); count < grants; writes++ {
		var change watch.Event
		select {
		case change = <-changes.ResultChan():
		case <-time.After(patience):
			t.Fatalf("the event counts %d grants, want %d", count, grants)
		}
		event, _ := change.Object.(*unstructured.Unstructured)
		if first := watch.Added; writes == 0 && change.Type != first || writes > 0 && change.Type != watch.Modified {
			t.Fatalf("change %d is %s: the grants must be one object", writes, change.Type)
		}
		count, _, _ = unstructured.NestedInt64(event.Object, "count")
	}
	if limit := 1 + int(time.Since(began)/eventInterval); writes > limit {
		t.Errorf("%d writes in %s, want at most %d", writes, time.Since(began), limit)
	}
}

// noRightToEvents: the lock works, and the log tells why there are no events.
func noRightToEvents(t *testing.T, s *server) {
	s.kubectl(t, "create", "serviceaccount", "no-events")
	s.kubectl(t, "create", "role", "no-events", "--verb=get,list,watch,create,update",
		"--resource=stocklocks.flashsale.internal,stocklocks.flashsale.internal/status")
	s.kubectl(t, "create", "rolebinding", "no-events", "--role=no-events", "--serviceaccount="+testNamespace+":no-events")
	at := s.account
	at.Token = s.tokenOf(t, "no-events")
	cfg := s.config(Config{REST: at.config()})
	warnings := make(warnings, 10)
	cfg.Logger = slog.New(warnings)
	l := opened(t, NewStock, cfg)
	sandboxtest.Eventually(t, "the account's rights", func() bool {
		_, err := l.kind.List(t.Context(), metav1.ListOptions{})
		return !apierrors.IsForbidden(err)
	})
	for range 3 {
		locktest.MustUnlock(t, locktest.MustLock(t, l, "no-events"))
	}
	select {
	case text := <-warnings:
		if !strings.Contains(text, "cannot patch resource \"events\"") {
			t.Errorf("warning %q", text)
		}
	case <-time.After(patience):
		t.Error("no warning")
	}
}

// warnings gets the errors of warnings that are logged.
type warnings chan string

func (w warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }
func (w warnings) WithAttrs([]slog.Attr) slog.Handler               { return w }
func (w warnings) WithGroup(string) slog.Handler                    { return w }
func (w warnings) Handle(_ context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool { w <- a.Value.String(); return true })
	return nil
}

// eventsDelayNoLock: the server answers no request for events.
func eventsDelayNoLock(t *testing.T, s *server) {
	l := s.stock(t, Config{TTL: longTTL}) // requests time out after 20 s
	l.events = silent{}
	for range 2 * eventBurst {
		began := time.Now()
		locktest.MustUnlock(t, locktest.MustLock(t, l, "silent"))
		if took := time.Since(began); took > l.timeout {
			t.Fatalf("a lock took %s", took)
		}
	}
	began := time.Now()
	if err := l.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > l.timeout {
		t.Errorf("Close took %s", took)
	}
}

type silent struct{ dynamic.ResourceInterface }

func (silent) Apply(ctx context.Context, _ string, _ *unstructured.Unstructured, _ metav1.ApplyOptions, _ ...string) (*unstructured.Unstructured, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestEventsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRecorder(nil, "r@h:1")
	for i := range eventLimit + 1 {
		for range 2 {
			r.note(cause{object: fmt.Sprint(i), reason: reasonGranted}, "granted")
		}
	}
	if len(r.all) != eventLimit {
		t.Errorf("%d events wait, want %d", len(r.all), eventLimit)
	}
	if n := len(r.due()); n != eventBurst {
		t.Errorf("%d events are due, want %d", n, eventBurst)
	}
	for range eventLimit / eventBurst {
		r.due()
	}
	for _, s := range r.all {
		s.last = s.last.Add(-2 * eventIdle)
	}
	if n := len(r.due()); n != 0 || len(r.all) != 0 {
		t.Errorf("%d idle events are due and %d are kept, want none", n, len(r.all))
	}
}

// kubectlWaits for the states of a lock that the object's status has.
func kubectlWaits(t *testing.T, s *server) {
	l := s.stock(t, Config{})
	held := locktest.MustLock(t, l, "awaited")
	object := "stocklock/" + nameOf(t, "awaited")
	for _, state := range []string{"{.status.holder}=r@h:1", "{.status.holder}", "{.status.token}=1"} {
		if out := s.kubectl(t, "wait", "--for=jsonpath="+state, object, "--timeout=20s"); !strings.Contains(out, "condition met") {
			t.Errorf("wait for %s: %s", state, out)
		}
	}
	// docs/kubernetes.md shows these calls.
	space := "/namespaces/" + testNamespace
	for call, want := range map[string]string{
		"/apis/flashsale.internal/v1" + space + "/stocklocks/" + nameOf(t, "awaited"):                                                         `"holder":"r@h:1"`,
		"/apis/flashsale.internal/v1" + space + "/stocklocks?watch=true&timeoutSeconds=1&fieldSelector=metadata.name=" + nameOf(t, "awaited"): `"type":"ADDED"`,
		"/api/v1" + space + "/events?fieldSelector=involvedObject.name=" + nameOf(t, "awaited"):                                               `"kind":"EventList"`,
	} {
		if out := s.kubectl(t, "get", "--raw", call); !strings.Contains(out, want) {
			t.Errorf("get --raw %s: %s, want %s", call, out, want)
		}
	}
	next := make(chan error, 1)
	go func() {
		_, err := s.Kubectl(t.Context(), "", "-n", testNamespace, "wait", "--for=jsonpath={.status.token}=2", object, "--timeout=20s")
		next <- err
	}()
	locktest.MustUnlock(t, held)
	locktest.MustUnlock(t, locktest.MustLock(t, l, "awaited"))
	if err := <-next; err != nil {
		t.Errorf("wait for the next grant: %v", err)
	}
}
