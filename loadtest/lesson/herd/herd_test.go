package herd

import (
	"context"
	"errors"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func TestReleaseCausesRequestsOfAllWaitersOnlyIfTheyWatchTheHolder(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	server, err := sandbox.StartZooKeeper(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	all, errAll := Measure(ctx, server, All)
	predecessor, errPredecessor := Measure(ctx, server, Predecessor)
	if err := errors.Join(errAll, errPredecessor, server.Close()); err != nil {
		t.Fatal(err)
	}
	if all < Waiters {
		t.Errorf("all watch the holder: got %d requests for a release, want at least %d", all, Waiters)
	}
	if predecessor > Limit {
		t.Errorf("each watches its predecessor: got %d requests for a release, want at most %d", predecessor, Limit)
	}
}
