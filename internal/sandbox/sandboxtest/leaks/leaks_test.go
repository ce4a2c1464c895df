package leaks

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestGoroutinesMayEndLateButMustEnd(t *testing.T) {
	others := goleak.IgnoreCurrent()
	end := make(chan struct{})
	go func() { <-end }()
	if err := find(0, others); err == nil {
		t.Error("a leaked goroutine was not found")
	}
	time.AfterFunc(time.Second, func() { close(end) }) // goleak alone gives up after some 0.4 s
	if err := find(endsWithin, others); err != nil {
		t.Error(err)
	}
}
