// Package lock grants mutual exclusion over a named resource between processes.
//
// A lock by itself cannot stop a holder that was paused past its lease: whoever
// writes under a lock must show its Token to the store, which admits only the
// newest (see the claim in package stock). Back-ends live in the folders below;
// all of them pass locktest.
package lock

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Token is a fencing token: larger for each later grant of the same name.
// Tokens of two sources (two etcd clusters, say) must never be compared.
// Zero is no token: the back-end has none to give.
type Token uint64

var (
	// ErrHeld says that TryLock found another holder.
	ErrHeld = errors.New("lock is held by another")
	// ErrLost says that a grant had ended before it was given back: it expired,
	// was revoked, or was never this holder's.
	ErrLost = errors.New("lock was lost")
	// ErrClosed says that the Locker has been closed.
	ErrClosed = errors.New("locker is closed")
	// ErrNotHeld says that there was no grant to revoke.
	ErrNotHeld = errors.New("lock is not held")
)

// HeldError is ErrHeld with the holder's name, where the back-end knows it.
type HeldError struct {
	// Holder is as in Info.
	Holder string
}

func (e *HeldError) Error() string { return "lock is held by " + e.Holder }

// Is says that this is ErrHeld.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// Locker grants locks. It is safe for concurrent use, also for the same name.
type Locker interface {
	// Lock waits for its turn, in order of arrival where the back-end can.
	// It returns ctx's error at ctx's end, leaving nothing behind on the server.
	Lock(ctx context.Context, name string) (Held, error)
	// TryLock is Lock without the wait: ErrHeld when another holds name.
	TryLock(ctx context.Context, name string) (Held, error)
	// Close ends every grant of this Locker and frees what it has on the
	// server, within ctx. A Lock that still waits returns ErrClosed.
	Close(ctx context.Context) error
}

// Held is one grant of a lock, from the moment it was granted until Unlock.
type Held interface {
	// Token is larger for each later grant of the same name, over all processes.
	Token() Token
	// Lost is closed as soon as the grant can no longer be relied on. It may
	// be closed late (a paused process closes nothing): fence what you write.
	Lost() <-chan struct{}
	// Wanted is closed once another waits behind this grant, here or in
	// another process. It is nil where the back-end cannot tell.
	Wanted() <-chan struct{}
	// Unlock gives this grant back. It never touches a later holder's. It
	// returns ErrLost when the grant had already ended.
	Unlock(ctx context.Context) error
}

// Silenced is implemented by a Held that tells why it was lost.
type Silenced interface {
	// Silent reports, once Lost is closed, whether it was closed because the
	// server did not answer in time. The grant may then stand on the server for
	// a while: a holder whose writes are fenced need not stop before it is
	// refused.
	Silent() bool
}

// Viewer is implemented by a Locker that knows who holds a name without asking
// its server.
type Viewer interface {
	// Holder tells who holds name. The answer may be old. It is false where
	// nobody is known to hold it: ask by TryLock.
	Holder(name string) (Holder, bool)
	// Evict ends the grant of name with that token, and no other. Whoever waits
	// next gets the lock. It returns ErrNotHeld where that grant had ended.
	//
	// The holder may work for all it knows: only a store that refuses its token
	// makes an eviction safe.
	Evict(ctx context.Context, name string, token Token) error
}

// Holder is a grant as others see it.
type Holder struct {
	Token Token
	// Mine: the grant is this Locker's own.
	Mine bool
	// Process is a random name of the process that holds, and Addr where it
	// takes orders of other replicas. Both are empty where it takes none.
	Process, Addr string
	// Gone is closed once the view shows that this grant has ended.
	Gone <-chan struct{}
}

// Inspector is implemented by a Locker whose server tells who holds what, over
// all processes.
type Inspector interface {
	// Inspect lists the locks that are held now, sorted by name.
	Inspect(ctx context.Context) ([]Info, error)
	// Revoke ends the grant of name, whoever has it, as an operator does: its
	// holder loses it, and the next may enter. It returns ErrNotHeld where
	// nobody had it. Whether the holder hears of it is another matter (see
	// Capabilities): fence what it writes.
	Revoke(ctx context.Context, name string) error
}

// Info is what a back-end tells of one lock that is held. What it cannot tell is
// empty.
type Info struct {
	Name string
	// Holder is who holds it, for people: mostly replica@host:pid.
	Holder string
	// Replica is the holder's name in the service.
	Replica string
	Token   Token
	// Since is when the grant was asked for, by the holder's clock.
	Since time.Time
	// Queue has those who wait, the next one first, each as in Holder.
	Queue []string
	// Addr is where the holder takes orders of other replicas.
	Addr string
}

// Capabilities are what a back-end promises beyond mutual exclusion. The suite
// in locktest checks each that is declared, and that each other is absent where
// that can be seen. It does not count round trips: a back-end states these.
type Capabilities struct {
	// Processes: excludes between processes, not only between goroutines.
	Processes bool
	// Fair: grants in order of arrival.
	Fair bool
	// Deadline: Lock returns at its context's end also when the server is dead.
	Deadline bool
	// Token: grants carry a fencing token that rises.
	Token bool
	// LossNotice: Lost is closed when the grant ends by itself.
	LossNotice bool
	// Wanted: a holder is told that another waits.
	Wanted bool
	// Queue: whoever waits stands on the server, where an operator sees it. Else
	// a waiter asks there from time to time, or is told to ask again.
	Queue bool
	// Removal: it is noticed when an operator removes one place on the server:
	// a holder's grant is lost, and a waiter with a place (see Queue) queues
	// again. Else that waiter's Lock fails.
	Removal bool
	// Renewed: a grant has a lease, which is renewed for as long as its process
	// runs. Else it ends with its connection, or never.
	Renewed bool
	// Reentrant: an owner that holds may lock again. See WithOwner.
	Reentrant bool
	// Restart: a grant survives a restart of its server.
	Restart bool
	// LockTrips and UnlockTrips are the requests that a Lock without a rival,
	// and its Unlock, wait for, one after the other.
	LockTrips, UnlockTrips int
}

// ownerKey is the key of a context's owner.
type ownerKey struct{}

// WithOwner names who asks for a lock. Where the back-end is re-entrant, an owner
// may lock again what it holds: it gets the same grant, with the same token, and
// the lock is free once each of its Helds has been unlocked. An owner is one of
// its Locker: the same name elsewhere is another. Without one, and where the
// back-end is not re-entrant, each Lock excludes each other.
func WithOwner(ctx context.Context, owner string) context.Context {
	return context.WithValue(ctx, ownerKey{}, owner)
}

// OwnerOf is the owner that WithOwner named, or "".
func OwnerOf(ctx context.Context) string {
	owner, _ := ctx.Value(ownerKey{}).(string)
	return owner
}

// MaxName is the longest name of a lock, in bytes.
const MaxName = 255

// CheckName refuses a name that could not stand as one segment of a key.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("lock name is empty")
	case len(name) > MaxName:
		return fmt.Errorf("lock name has %d bytes, at most %d are allowed", len(name), MaxName)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("lock name %q holds a slash or a zero byte", name)
	}
	return nil
}
