// Package record writes down what a replica did to its orders, step by step, for people
// who want to see a race. It knows files and no servers. A Recorder never delays an
// order: it drops steps that it cannot write in time, and says how many. Package
// loadtest/steps reads the files.
package record

import "time"

// Kind is what was done in a Step.
type Kind string

// The steps of an order. docs/steps.md has the fields of each.
const (
	Arrived   Kind = "arrived"   // a buyer's order reached this replica
	Read      Kind = "read"      // the stock row was read, for this order
	Wrote     Kind = "wrote"     // the stock row was written; others see it after the commit
	Committed Kind = "committed" // the stock row and the order are in MySQL
	Rejected  Kind = "rejected"  // the write had no effect: the fence, the row, a key or the bound on unpaid orders was in its way
	Unknown   Kind = "unknown"   // the answer to the commit was lost
	Took      Kind = "took"      // the units were taken in etcd
	GaveBack  Kind = "gave-back" // the units went back to etcd
	Forwarded Kind = "forwarded" // the order goes to the SKU's seller
	Refused   Kind = "refused"   // it was decided that the order gets no units
	Replayed  Kind = "replayed"  // it was decided that the order exists already
	Answered  Kind = "answered"  // the buyer got the answer
)

// The steps of a lock. A desk takes its lock for many orders; its steps name none.
const (
	LockAsked  Kind = "lock-asked"
	Locked     Kind = "locked"
	LockFailed Kind = "lock-failed"
	Claimed    Kind = "claimed" // MySQL stored the token, and the stock row was read
	Unlocked   Kind = "unlocked"
	LockLost   Kind = "lock-lost"
	TookOver   Kind = "took-over" // the lock of another replica was removed
)

// The steps of a Recorder itself.
const (
	Started Kind = "started" // the first of each process
	Dropped Kind = "dropped" // steps are missing here
	Stopped Kind = "stopped" // the last one, unless the process was killed
)

// Step is one line of a file. Fields that do not apply to its Kind are absent.
type Step struct {
	Kind    Kind   `json:"step"`
	Replica string `json:"replica"`
	// Wall is the host's clock at the end of the step. Mono is the time since Started by a
	// clock that is never set.
	Wall time.Time     `json:"wall"`
	Mono time.Duration `json:"mono_ns"`

	SKU string `json:"sku,omitempty"`
	// Customer and Key identify an order from its arrival on, and Order from the write on.
	Customer string `json:"customer,omitempty"`
	Key      string `json:"key,omitempty"`
	Order    string `json:"order,omitempty"`
	Quantity int32  `json:"quantity,omitempty"`

	// Token is the fencing token of the lock.
	Token uint64 `json:"token,omitempty"`
	// Before and After are the available units that the step read, and those that it wrote.
	Before *int64 `json:"available_before,omitempty"`
	After  *int64 `json:"available_after,omitempty"`
	// Seq is the version of the row that was read, or written.
	Seq uint64 `json:"seq,omitempty"`
	// In is "etcd" for stock that is there, with its revision as Seq. All other stock is in
	// MySQL.
	In string `json:"in,omitempty"`

	// To is the other replica: the seller that an order is forwarded to, or the holder
	// whose lock was removed. A file has its address for links.
	To string `json:"to,omitempty"`
	// Reason is an error's text, and the answer in Answered.
	Reason string `json:"reason,omitempty"`
	// Lost is the number of steps that were dropped: here, and in Stopped in all.
	Lost int64 `json:"lost,omitempty"`

	// Strategy, Fence, PID and Addr describe the process, in Started.
	Strategy string `json:"strategy,omitempty"`
	Fence    string `json:"fence,omitempty"`
	PID      int    `json:"pid,omitempty"`
	Addr     string `json:"addr,omitempty"` // for links
}
