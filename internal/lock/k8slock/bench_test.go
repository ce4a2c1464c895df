package k8slock

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"flashsale/internal/lock"
	"flashsale/internal/lock/locktest"
	"flashsale/internal/sandbox/sandboxtest"
)

// BenchmarkHandover measures a hand-over, as locktest.HandOvers does, and the median of an
// update of another object, the write that no lock can avoid.
//
//	go test ./internal/lock/k8slock -run '^$' -bench Handover -benchtime 200x
func BenchmarkHandover(b *testing.B) {
	s := start(b)
	for _, backend := range []locktest.Backend{leaseBackend, stockBackend} {
		b.Run(backend.Name, func(b *testing.B) {
			var updates []time.Duration
			other := s.configMap(b)
			lockers := [2]lock.Locker{backend.OpenAt(b, s.Address(), testTTL), backend.OpenAt(b, s.Address(), testTTL)}
			locktest.HandOvers(b, "n", lockers, func(held lock.Held) {
				if held.Contended() != nil {
					sandboxtest.Await(b, held.Contended(), "Contended")
				} else {
					time.Sleep(30 * time.Millisecond) // its waiter is not stored on the server
				}
				updates = append(updates, s.update(b, other))
			})
			locktest.ReportMedian(b, updates, "update-p50-ms")
		})
	}
}

// BenchmarkUncontended measures a Lock and an Unlock without contention.
func BenchmarkUncontended(b *testing.B) {
	s := start(b)
	for _, backend := range []locktest.Backend{leaseBackend, stockBackend} {
		b.Run(backend.Name, func(b *testing.B) {
			l := backend.OpenAt(b, s.Address(), testTTL)
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
