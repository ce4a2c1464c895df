package lease

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"flashsale/internal/lock"
)

func TestALeaseIsRenewedThroughOneFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		k := Keep(testTTL, time.Now(), func(context.Context) error {
			calls++
			if calls%2 == 1 {
				return errUnreachable
			}
			return nil
		})
		time.Sleep(20*testTTL + testTTL/2)
		if !k.Alive() || happened(k.Lost()) {
			t.Error("the lease is lost although every second renewal succeeds")
		}
		if !k.Stop() {
			t.Error("Stop reports that the lease is lost")
		}
		if want := 61; calls != want {
			t.Errorf("%d renewals, want %d", calls, want)
		}
	})
}

func TestALeaseIsLostBeforeTheServerEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := time.Now()
		time.Sleep(testTTL / 4) // the answer is slow
		k := Keep(testTTL, asked, hang)
		<-k.Lost()
		if took, want := time.Since(asked), testTTL-testTTL/marginShare; took != want {
			t.Errorf("lost after %s, want %s", took, want)
		}
		if k.Stop() {
			t.Error("Stop reports that the lease is alive")
		}
	})
}

func TestARenewalCountsFromBeforeItWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		calls := 0
		k := Keep(testTTL, began, func(context.Context) error {
			if calls++; calls > 1 {
				return errUnreachable
			}
			time.Sleep(testTTL / 4)
			return nil
		})
		<-k.Lost()
		if took, want := time.Since(began), testTTL/renewals+testTTL-testTTL/marginShare; took != want {
			t.Errorf("lost after %s, want %s", took, want)
		}
		k.Stop()
	})
}

// TestARenewalDoesNotReviveAnExpiredLease: Alive may have reported its end.
func TestARenewalDoesNotReviveAnExpiredLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := Keep(testTTL, time.Now(), hang)
		k.mu.Lock()
		k.deadline = time.Now() // as after a pause of the process
		k.mu.Unlock()
		if k.Alive() || k.extend(time.Now()) || k.Alive() {
			t.Error("the renewal revived the lease")
		}
		k.Stop()
	})
}

func TestALeaseThatTheServerEndedIsLostAtTheNextRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		k := Keep(testTTL, began, func(context.Context) error { return lock.ErrLost })
		<-k.Lost()
		if took := time.Since(began); took != testTTL/renewals {
			t.Errorf("lost after %s, want %s", took, testTTL/renewals)
		}
		k.Lose() // a second call is harmless
		k.Stop()
	})
}

func TestStopWaitsForARenewalAndDoesNotCloseLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended time.Time
		k := Keep(testTTL, time.Now(), func(context.Context) error { // ignores its context
			time.Sleep(testTTL / 6)
			ended = time.Now()
			return nil
		})
		time.Sleep(testTTL/renewals + time.Millisecond)
		if !k.Stop() {
			t.Error("Stop reports that the lease is lost")
		}
		if ended.IsZero() || !time.Now().Equal(ended) {
			t.Errorf("Stop returned at %s, the renewal ended at %s", time.Now(), ended)
		}
		time.Sleep(2 * testTTL)
		if happened(k.Lost()) {
			t.Error("Lost is closed after Stop")
		}
	})
}
