package lesson

import (
	"context"
	"errors"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/processlock"
	"flashsale/loadtest/lesson/testbed"
)

// closeTimeout bounds the giving back of what a play has left locked.
const closeTimeout = 5 * time.Second

// mutex is a lock that buyers of a play share.
type mutex struct {
	play   *testbed.Play
	locker lock.Locker
}

// newMutex makes a lock of one process. To lessons about transactions it makes no
// difference what kind a lock is: the simplest is the clearest.
func newMutex(p *testbed.Play) *mutex { return newMutexOn(p, processlock.New()) }

// newMutexOn takes one of the service's own locks, which ends with the play.
func newMutexOn(p *testbed.Play, locker lock.Locker) *mutex {
	p.Cleanup(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		return locker.Close(ctx)
	})
	return &mutex{play: p, locker: locker}
}

// grant is a mutex in a buyer's hands.
type grant struct {
	lock.Held
	buyer *testbed.Buyer
	play  *testbed.Play
}

// lock takes the mutex, which is free, or will be soon.
func (m *mutex) lock(b *testbed.Buyer) *grant {
	held, err := m.locker.Lock(m.play.Context(), testbed.SKU)
	m.play.Check(err)
	b.Says("has the lock")
	return &grant{held, b, m.play}
}

// refuses has a buyer find that another holds the mutex.
func (m *mutex) refuses(b *testbed.Buyer) {
	if _, err := m.locker.TryLock(m.play.Context(), testbed.SKU); !errors.Is(err, lock.ErrHeld) {
		m.play.Fail("%s: the lock is not held: %v", b.Name, err)
	}
	b.Says("asks for the lock: another holds it, has to wait")
}

// beginsLock begins to wait for the mutex, and returns once its holder knows that
// it is waited for. What it returns waits for the grant.
func (m *mutex) beginsLock(b *testbed.Buyer, holder *grant) func() *grant {
	var held lock.Held
	step := b.Begins("asks for the lock, and has to wait", func(ctx context.Context) (err error) {
		held, err = m.locker.Lock(ctx, testbed.SKU)
		return err
	})
	m.play.Await("the holder knows that another waits", holder.Wanted())
	step.MustWait()
	return func() *grant {
		step.Ends()
		b.Says("has the lock")
		return &grant{held, b, m.play}
	}
}

func (g *grant) unlock() {
	g.buyer.Says("unlocks")
	g.play.Check(g.Unlock(g.play.Context()))
}
