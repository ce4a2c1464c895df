package k8slock

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// BenchmarkHandover measures a hand-over: from just before Unlock until the waiter's
// Lock has returned. Two holders with separate clients take turns. It also reports the
// median of an update of another object, the write that no lock can avoid.
//
//	go test ./internal/lock/k8slock -run '^$' -bench Handover -benchtime 200x
func BenchmarkHandover(b *testing.B) {
	s := start(b)
	for _, kind := range []string{"lease", "stocklock"} {
		b.Run(kind, func(b *testing.B) { s.handOver(b, kind) })
	}
}

func (s *server) handOver(b *testing.B, kind string) {
	b.Helper()
	const name = "n"
	var lockers [2]locker
	for i := range lockers {
		made, err := kinds[kind](testConfig(s.account))
		lockers[i] = closing(b, made, err)
	}
	other := s.configMap(b)
	held := locktest.MustLock(b, lockers[0], name)
	var handovers, updates []time.Duration
	for i := 1; b.Loop(); i++ {
		waiter := locktest.LockAside(b, lockers[i%2], name)
		if held.Contended() != nil {
			sandboxtest.Await(b, held.Contended(), "Contended")
		} else {
			time.Sleep(30 * time.Millisecond) // its waiter is not stored on the server
		}
		began := time.Now()
		locktest.MustUnlock(b, held)
		held = waiter.Granted(b)
		handovers = append(handovers, time.Since(began))
		updates = append(updates, s.update(b, other))
	}
	locktest.MustUnlock(b, held)
	b.ReportMetric(milliseconds(handovers), "p50-ms")
	b.ReportMetric(milliseconds(updates), "update-p50-ms")
}

// BenchmarkUncontended measures a Lock and an Unlock without contention.
func BenchmarkUncontended(b *testing.B) {
	s := start(b)
	for _, kind := range []string{"lease", "stocklock"} {
		b.Run(kind, func(b *testing.B) {
			made, err := kinds[kind](testConfig(s.account))
			l := closing(b, made, err)
			for b.Loop() {
				locktest.MustUnlock(b, locktest.MustLock(b, l, "n"))
			}
		})
	}
}

var configMaps = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

func (s *server) configMap(b *testing.B) *unstructured.Unstructured {
	b.Helper()
	object := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"generateName": "bench-"},
	}}
	created, err := s.client.Resource(configMaps).Namespace(testNamespace).Create(b.Context(), object, metav1.CreateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return created
}

// update returns the duration of one durable write.
func (s *server) update(b *testing.B, object *unstructured.Unstructured) time.Duration {
	b.Helper()
	began := time.Now()
	object.SetAnnotations(map[string]string{"at": began.String()})
	updated, err := s.client.Resource(configMaps).Namespace(testNamespace).Update(b.Context(), object, metav1.UpdateOptions{})
	if err != nil {
		b.Fatal(err)
	}
	took := time.Since(began)
	object.SetResourceVersion(updated.GetResourceVersion())
	return took
}

func milliseconds(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2]) / float64(time.Millisecond)
}
