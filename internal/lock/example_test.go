package lock_test

import (
	"context"
	"errors"
	"fmt"
	"log"

	"flashsale/internal/lock"
	"flashsale/internal/lock/processlock"
)

// A caller waits for its turn, works while it holds the lock, and unlocks. The same
// code works with every back-end.
func Example() {
	ctx := context.Background()
	locker := lock.Locker(processlock.New())
	defer func() { _ = locker.Close(ctx) }()

	held, err := locker.Lock(ctx, "SKU-1") // waits until ctx ends
	if err != nil {
		log.Fatal(err)
	}
	if _, err := locker.TryLock(ctx, "SKU-1"); errors.Is(err, lock.ErrHeld) {
		fmt.Println("TryLock:", err) // does not wait
	}

	select {
	case <-held.Lost():
		fmt.Println("stop: another process may hold the lock")
	default:
		fmt.Println("working") // every write shows held.Token() to the store
	}

	if err := held.Unlock(ctx); err != nil { // lock.ErrLost if the grant ended earlier
		log.Fatal(err)
	}
	// Output:
	// TryLock: lock is held by another
	// working
}

// stock is a store with a fence: it admits only the newest token.
type stock struct {
	fence lock.Token
	units int
}

// claim is called once for each grant, before the first read.
func (s *stock) claim(token lock.Token) { s.fence = max(s.fence, token) }

// take checks the token and changes the stock in one step, as a transaction would.
func (s *stock) take(token lock.Token) error {
	if token != s.fence {
		return fmt.Errorf("token %d: a later holder has token %d", token, s.fence)
	}
	s.units--
	return nil
}

// A holder that was paused past its lease does not know that the lock has a new
// holder. The store refuses its token.
func ExampleToken() {
	s := &stock{units: 10}
	paused, next := lock.Token(7), lock.Token(8) // of two successive grants

	s.claim(paused)
	fmt.Println(s.take(paused), s.units)
	// Here the first holder is paused, its lease ends, and the lock is granted again.
	s.claim(next)
	fmt.Println(s.take(next), s.units)
	fmt.Println(s.take(paused)) // the first holder continues
	// Output:
	// <nil> 9
	// <nil> 8
	// token 7: a later holder has token 8
}
