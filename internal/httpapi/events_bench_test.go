package httpapi_test

import (
	"bufio"
	"fmt"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"flashsale/internal/httpapi"
	"flashsale/internal/stock"
)

// view has a thousand SKUs, of which the first changes.
type view struct {
	mu       sync.Mutex
	next     chan struct{}
	entries  []stock.Level
	revision int64
}

func (v *view) Next() <-chan struct{} {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.next
}

func (v *view) Since(revision int64) ([]stock.Level, int64, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if revision == 0 {
		return append([]stock.Level(nil), v.entries...), v.revision, true
	}
	return v.entries[:1:1], v.revision, true
}

func (v *view) change() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.revision++
	v.entries[0].Seq = uint64(v.revision)
	close(v.next)
	v.next = make(chan struct{})
}

// BenchmarkEvents follows one SKU with 2,000 streams. One operation is a change that
// all streams have received; there are at most 20 a second. CPU and memory include
// the clients.
func BenchmarkEvents(b *testing.B) {
	const readers = 2000
	v := &view{next: make(chan struct{}), revision: 1}
	for i := range 1000 {
		v.entries = append(v.entries, stock.Level{SKU: fmt.Sprintf("sku-%03d", i), Units: 100, Available: 100, Seq: 1})
	}
	s := newServerWith(b, func(cfg *httpapi.Config) { cfg.View, cfg.MaxStreamsAddress = v, readers })
	s.put("sku-000")
	address := strings.TrimPrefix(s.URL, "http://")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var got atomic.Int64
	received := make(chan struct{}, 1)
	for range readers {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { conn.Close() })
		if _, err := fmt.Fprintf(conn, "GET /v1/skus/sku-000/events HTTP/1.1\r\nHost: %s\r\n\r\n", address); err != nil {
			b.Fatal(err)
		}
		go func() {
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if strings.HasPrefix(lines.Text(), "id: ") && got.Add(1)%readers == 0 {
					received <- struct{}{}
				}
			}
		}()
	}
	<-received
	runtime.GC()
	runtime.ReadMemStats(&after)
	cpu := cpuTime(b)
	b.ResetTimer()
	for b.Loop() {
		v.change()
		<-received
	}
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N*readers)/float64(time.Microsecond), "cpu-us/event")
	b.ReportMetric(float64(after.HeapAlloc+after.StackInuse-before.HeapAlloc-before.StackInuse)/readers/1024, "KiB/stream")
}

func cpuTime(b *testing.B) time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
