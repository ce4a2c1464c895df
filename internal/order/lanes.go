package order

import (
	"context"
	"slices"
	"sync"
)

const groupSKUs = 256 // of one group

// lanes process items in groups, on a bounded number of goroutines. Items that
// arrive while all lanes are busy form the next group.
type lanes[T any] struct {
	most    int         // goroutines
	size    func(T) int // of an item
	maxSize int         // of a group of several items
	// start runs a lane on a goroutine that its owner waits for.
	start   func(lane func())
	process func(ctx context.Context, group []T)

	mu      sync.Mutex
	waiting []T
	running int
}

func (l *lanes[T]) add(ctx context.Context, item T) {
	l.mu.Lock()
	l.waiting = append(l.waiting, item)
	idle := l.running < l.most
	if idle {
		l.running++
	}
	l.mu.Unlock()
	if idle {
		l.start(func() {
			for group := l.next(); len(group) > 0; group = l.next() {
				l.process(ctx, group)
			}
		})
	}
}

// next takes the next group. If nothing waits, it ends the lane.
func (l *lanes[T]) next() []T {
	l.mu.Lock()
	defer l.mu.Unlock()
	n, size := 0, 0
	for n < len(l.waiting) && n < groupSKUs && (n == 0 || size+l.size(l.waiting[n]) <= l.maxSize) {
		size += l.size(l.waiting[n])
		n++
	}
	if n == 0 {
		l.running--
	}
	group := slices.Clone(l.waiting[:n])
	l.waiting = slices.Delete(l.waiting, 0, n)
	return group
}
