// Package lock grants mutual exclusion over a named resource between processes.
//
// A lock by itself cannot stop a holder that was paused past its lease. A write under
// a lock must carry the holder's Token, and the store must admit only the newest one
// (see the claim in package stock). The back-ends are in the packages below this one.
package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Token is a fencing token. It is larger for each later grant of the same name. Tokens
// of two sources (two etcd clusters) must not be compared. Zero means no token.
type Token uint64

var (
	// ErrHeld is returned by TryLock when another holder has the lock.
	ErrHeld = errors.New("lock is held by another")
	// ErrLost is returned by Unlock when the grant has expired, or was revoked or unlocked.
	ErrLost = errors.New("lock was lost")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("locker is closed")
	// ErrNotHeld is returned by Revoke and Evict when there is no such grant.
	ErrNotHeld = errors.New("lock is not held")
)

// HeldError is an ErrHeld that names the holder, as in Info.
type HeldError struct{ Holder string }

func (e *HeldError) Error() string { return "lock is held by " + e.Holder }

// Is reports whether target is ErrHeld.
func (e *HeldError) Is(target error) bool { return target == ErrHeld }

// Locker grants locks. It is safe for concurrent use, also for the same name.
type Locker interface {
	// Lock waits for its turn, in order of arrival where the back-end can.
	// When ctx ends, it returns ctx's error and leaves nothing on the server.
	Lock(ctx context.Context, name string) (Held, error)
	// TryLock does not wait. It returns ErrHeld when another holder has name.
	TryLock(ctx context.Context, name string) (Held, error)
	// Close ends every grant of this Locker and frees its server resources,
	// within ctx. A Lock that still waits returns ErrClosed.
	Close(ctx context.Context) error
}

// Held is one grant of a lock, until Unlock.
type Held interface {
	// Token is larger for each later grant of the same name, over all processes.
	Token() Token
	// Lost is closed when the grant can no longer be relied on. A paused process
	// closes it late: fence what you write.
	Lost() <-chan struct{}
	// Contended is closed when another caller waits, in any process. It is nil where the
	// back-end cannot tell.
	Contended() <-chan struct{}
	// Unlock ends this grant, and never a later one. See ErrLost.
	Unlock(ctx context.Context) error
}

// LossReporter is implemented by a Held that can tell why it was lost.
type LossReporter interface {
	// TimedOut reports, once Lost is closed, whether the server did not answer in time.
	// The server may then still store the grant, and a holder with fenced writes may go
	// on until a write is refused.
	TimedOut() bool
}

// Viewer is implemented by a Locker that knows the holders without a request.
type Viewer interface {
	// Holder returns the holder of name. The answer may be stale. It is false
	// when no holder is known; TryLock then asks the server.
	Holder(name string) (Holder, bool)
	// Evict ends the grant of name that has this token, and no other. It returns
	// ErrNotHeld if that has ended. The evicted holder may still be working, so the
	// store must refuse its token.
	Evict(ctx context.Context, name string, token Token) error
}

// Holder is a grant as other processes see it.
type Holder struct {
	Token Token
	// Mine reports whether the grant belongs to this Locker.
	Mine bool
	// Process is a random id of the holder's process, and Addr is where it accepts
	// forwarded orders. Both are empty if it accepts none.
	Process, Addr string
	// Gone is closed when this grant is seen to have ended.
	Gone <-chan struct{}
}

// Inspector is implemented by a Locker whose server can list all holders.
type Inspector interface {
	// Inspect lists the locks that are held now, sorted by name.
	Inspect(ctx context.Context) ([]Info, error)
	// Revoke ends the current grant of name, for an operator. It returns ErrNotHeld if
	// there is none. The holder may notice late or never (see Capabilities).
	Revoke(ctx context.Context, name string) error
}

// Info describes a lock that is held. What the back-end does not know is empty.
type Info struct {
	Name string
	// Holder identifies the holder for people, usually as replica@host:pid.
	Holder string
	// Replica is the holder's name in the service.
	Replica string
	Token   Token
	// Since is when the grant was requested, by the holder's clock.
	Since time.Time
	// Queue lists the waiters, the next one first, each as in Holder.
	Queue []string
	// Addr is where the holder accepts forwarded orders.
	Addr string
}

// SortInfos sorts locks by name.
func SortInfos(list []Info) {
	slices.SortFunc(list, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
}

// Capabilities are what a back-end guarantees beyond mutual exclusion. Package locktest
// checks them, except for the round trips. Where it can, it also checks that those not
// declared are absent.
type Capabilities struct {
	// Processes: the lock excludes other processes, not only other goroutines.
	Processes bool
	// Fair: grants are made in order of arrival.
	Fair bool
	// Deadline: Lock returns at the end of its context even if the server is down.
	Deadline bool
	// Token: each grant has a fencing token.
	Token bool
	// LossNotice: Lost is closed when the grant ends without Unlock.
	LossNotice bool
	// Contended: a holder learns that another caller waits.
	Contended bool
	// Queue: waiters are stored on the server, where Inspect sees them. Otherwise a
	// waiter polls, or is notified and tries again.
	Queue bool
	// Removal: a client notices when an operator removes its entry on the server. A
	// holder loses its grant, and a stored waiter queues again instead of failing.
	Removal bool
	// Renewed: a grant has a lease that its process renews. Otherwise it ends with its
	// connection, or never.
	Renewed bool
	// Reentrant: an owner may lock again what it holds. See WithOwner.
	Reentrant bool
	// Restart: a grant survives a restart of its server.
	Restart bool
	// LockTrips and UnlockTrips are the sequential round trips of an uncontended
	// Lock, and of its Unlock.
	LockTrips, UnlockTrips int
}

type ownerKey struct{}

// WithOwner returns a context whose calls of Lock are made for owner. In a re-entrant
// back-end, an owner may lock again what it holds: it gets the same grant, and the lock
// is free after the last Unlock. The same name in another Locker is another owner.
func WithOwner(ctx context.Context, owner string) context.Context {
	return context.WithValue(ctx, ownerKey{}, owner)
}

// OwnerOf returns the owner set by WithOwner, or "".
func OwnerOf(ctx context.Context) string {
	owner, _ := ctx.Value(ownerKey{}).(string)
	return owner
}

// MaxName is the longest name of a lock, in bytes.
const MaxName = 255

// CheckName returns an error if name cannot be one segment of a key.
func CheckName(name string) error {
	switch {
	case name == "":
		return errors.New("lock name is empty")
	case len(name) > MaxName:
		return fmt.Errorf("lock name has %d bytes; the maximum is %d", len(name), MaxName)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("lock name %q contains a slash or a zero byte", name)
	}
	return nil
}
