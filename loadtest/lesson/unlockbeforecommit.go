package lesson

import (
	"context"

	"flashsale/internal/lock"
	"flashsale/internal/lock/processlock"
	"flashsale/loadtest/lesson/stage"
)

var unlockBeforeCommit = Lesson{
	Name:    "unlock-before-commit",
	Title:   "the lock must outlive the transaction",
	Shows:   "The lock is given back when the function returns, and the transaction commits around it, a moment later.",
	Servers: []Server{MariaDB},
	Acts: []Act{
		{Title: "unlock, then COMMIT", Breaks: true, Play: func(p *stage.Play) stage.Audit {
			shop, mutex := p.Shop(1), newMutex(p)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			a.Begin()
			held := mutex.lock(a)
			a.Read()
			a.Sell(1)
			held.unlock()
			b.Begin()
			heldByB := mutex.lock(b)
			b.Read() // what is committed: A's sale is not
			sale := b.BeginsSale(1)
			a.Commit()
			b.HasSold(sale, 1)
			heldByB.unlock()
			b.Commit()
			return shop.Audit()
		}},
		{Title: "COMMIT, then unlock", Play: func(p *stage.Play) stage.Audit {
			shop, mutex := p.Shop(1), newMutex(p)
			a, b := shop.Buyer("A"), shop.Buyer("B")
			held := mutex.lock(a)
			a.Begin()
			a.Read()
			a.Sell(1)
			waiting := mutex.beginsLock(b, held)
			a.Commit()
			held.unlock()
			heldByB := waiting()
			b.Begin()
			b.Read()
			b.Sell(1)
			b.Rollback()
			heldByB.unlock()
			return shop.Audit()
		}},
	},
}

// mutex is a lock that all buyers of a play share. What kind it is makes no
// difference to lessons about transactions: the simplest is the clearest.
type mutex struct {
	play   *stage.Play
	locker lock.Locker
}

func newMutex(p *stage.Play) *mutex {
	locker := processlock.New()
	p.Cleanup(func() error { return locker.Close(context.Background()) })
	return &mutex{play: p, locker: locker}
}

// grant is a mutex in a buyer's hands.
type grant struct {
	lock.Held
	buyer *stage.Buyer
	play  *stage.Play
}

// lock takes the mutex, which is free.
func (m *mutex) lock(b *stage.Buyer) *grant {
	held, err := m.locker.TryLock(m.play.Context(), stage.SKU)
	m.play.Check(err)
	b.Says("has the lock")
	return &grant{held, b, m.play}
}

// beginsLock begins to wait for the mutex, and returns once its holder knows that
// it is waited for. What it returns waits for the grant.
func (m *mutex) beginsLock(b *stage.Buyer, holder *grant) func() *grant {
	var held lock.Held
	step := b.Begins("asks for the lock, and has to wait", func(ctx context.Context) (err error) {
		held, err = m.locker.Lock(ctx, stage.SKU)
		return err
	})
	<-holder.Wanted()
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
