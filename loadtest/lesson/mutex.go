package lesson

import (
	"context"
	"errors"
	"time"

	"flashsale/internal/lock"
	"flashsale/internal/lock/processlock"
	"flashsale/loadtest/lesson/testbed"
)

// closeTimeout bounds the closing of a lock after a run.
const closeTimeout = 5 * time.Second

type mutex struct {
	run    *testbed.Run
	server string // Etcd, for example
	locker lock.Locker
}

// newMutex makes a lock for one process, if the kind of lock makes no difference.
func newMutex(run *testbed.Run) *mutex { return newMutexOn(run, testbed.Mutex, processlock.New()) }

// newMutexOn takes one of the service's own locks, and closes it after the run.
func newMutexOn(run *testbed.Run, server string, locker lock.Locker) *mutex {
	run.Cleanup(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		return locker.Close(ctx)
	})
	return &mutex{run: run, server: server, locker: locker}
}

// grant is a mutex that a buyer holds.
type grant struct {
	lock.Held
	mutex *mutex
	buyer *testbed.Buyer
}

func (m *mutex) lock(b *testbed.Buyer) *grant {
	held, err := m.locker.Lock(m.run.Context(), testbed.SKU)
	m.run.Check(err)
	b.To(m.server, testbed.Lock).Log("acquires the lock")
	return &grant{held, m, b}
}

// sell sells a unit under the mutex, which is free.
func (m *mutex) sell(b *testbed.Buyer) {
	held := m.lock(b)
	b.ReadAndSell()
	held.unlock()
}

// refuse checks that the mutex is refused to a buyer, since another holds it.
func (m *mutex) refuse(b *testbed.Buyer) {
	if _, err := m.locker.TryLock(m.run.Context(), testbed.SKU); !errors.Is(err, lock.ErrHeld) {
		m.run.Fail("%s: the lock is not held: %v", b.Name, err)
	}
	b.To(m.server, testbed.Refuse).Log("requests the lock: held by another, must wait")
}

// startLock requests the mutex, and returns once its holder learns that another
// waits. finish waits for the grant.
func (m *mutex) startLock(b *testbed.Buyer, holder *grant) (finish func() *grant) {
	var held lock.Held
	step := b.To(m.server, testbed.Lock).Start("requests the lock and waits", func(ctx context.Context) (err error) {
		held, err = m.locker.Lock(ctx, testbed.SKU)
		return err
	})
	m.run.Await("the holder learns that another waits", holder.Contended())
	step.MustBlock()
	return func() *grant {
		step.Finish()
		b.To(m.server, testbed.Lock).Log("acquires the lock")
		return &grant{held, m, b}
	}
}

func (g *grant) unlock() {
	g.buyer.To(g.mutex.server, testbed.Lock).Log("releases the lock")
	g.mutex.run.Check(g.Unlock(g.mutex.run.Context()))
}
