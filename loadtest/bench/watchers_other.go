//go:build !linux

package bench

import (
	"context"
	"errors"
	"time"
)

type watchers struct{}

func openWatchers(context.Context, string, int) (*watchers, error) {
	return nil, errors.New("loadtest streams runs on Linux only: it reads all streams with epoll, and the replica's memory from /proc")
}

func (*watchers) close() {}

func (*watchers) expect(string, int64) func(context.Context) (time.Time, error) {
	panic("never: there are no watchers")
}
