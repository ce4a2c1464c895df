package lab

import (
	"net/http"
	"slices"

	"flashsale/internal/strategy"
)

// Level is a puzzle of "you are the scheduler": one unit, some replicas with an order each,
// and a person who decides which replica goes on.
type Level struct {
	Name  string `json:"name"`
	Title string `json:"title"`
	// Goal is what to try, in one sentence; Hint helps with it.
	Goal     string         `json:"goal"`
	Hint     string         `json:"hint"`
	Strategy string         `json:"strategy"`
	Fence    strategy.Fence `json:"fence"`
	Replicas int            `json:"replicas"`
	// Sell is how many orders must get the only unit.
	Sell int `json:"sell"`
	// Winnable: there are choices that sell it so often.
	Winnable bool `json:"winnable"`
	// Lease: the lock has a lease, so that its holder can be paused past it.
	Lease bool `json:"lease"`
	// Lesson is the lesson about it.
	Lesson string `json:"lesson"`

	won, lost string // why the end could, or could not, happen
}

var levels = []Level{
	{Name: "none", Title: "No guard", Strategy: "none", Fence: strategy.FenceOff, Replicas: 2, Sell: 2, Winnable: true, Lesson: "no-lock",
		Goal: "Sell the last unit twice.",
		Hint: "Both replicas must read the stock before one of them commits. Commit the first write before you make the second one.",
		won:  "Nothing connects the read of an order with its write. Each replica wrote what it had computed from a row that had changed since.",
		lost: "This time one order read the row after the other had committed. That was not guaranteed: other moves sell the unit twice."},
	{Name: "three", Title: "No guard, three replicas", Strategy: "none", Fence: strategy.FenceOff, Replicas: 3, Sell: 3, Winnable: true, Lesson: "no-lock",
		Goal: "Sell the last unit three times.",
		Hint: "The same as with two: all three must read before one of them commits.",
		won:  "More replicas make it worse: each order that reads before the first commit sells the same unit again.",
		lost: "An order that reads after a commit sees that nothing is left. That was not guaranteed: other moves sell the unit three times."},
	{Name: "process", Title: "A mutex in each process", Strategy: "process", Fence: strategy.FenceOff, Replicas: 2, Sell: 2, Winnable: true, Lesson: "one-process-lock",
		Goal: "Sell the last unit twice, although each order takes a lock.",
		Hint: "Let both replicas ask for their lock. Does either of them have to wait?",
		won:  "A mutex lives in the memory of its process. Each replica has its own, so both orders held a lock at the same time.",
		lost: "This time one order read the row after the other had committed. The mutex does not guarantee that: it excludes only orders of its own process."},
	{Name: "textbook", Title: "A textbook lock in etcd", Strategy: "etcd-textbook", Fence: strategy.FenceOff, Replicas: 2, Sell: 2, Winnable: true, Lease: true, Lesson: "paused-holder",
		Goal: "Sell the last unit twice, although only one replica at a time gets the lock.",
		Hint: "A lease ends even if its holder is paused. Pause a replica that has read the stock, sell at the other one, then resume the first.",
		won:  "The lock was granted to the next replica when the lease had ended. The paused replica did not know that, and no one checked its write.",
		lost: "The lock kept the two orders apart. It does so only if no holder is paused for longer than its lease."},
	{Name: "fence-on-write", Title: "A fence on write only", Strategy: "etcd-try", Fence: strategy.FenceWrite, Replicas: 2, Sell: 2, Winnable: true, Lease: true, Lesson: "paused-holder",
		Goal: "Sell the last unit twice, although MySQL refuses a write whose token is smaller than the newest that has written.",
		Hint: "MySQL learns a token only from a write. Let the other replica read, and not write, before you resume the paused one.",
		won:  "MySQL compares tokens at the write, and knows a token only after its first write. The paused replica wrote before the newer token was known, and the newer replica then overwrote that write.",
		lost: "The fence refused a write with an old token, or the lock kept the orders apart. But MySQL learns a token too late with this fence: other moves sell the unit twice."},
	{Name: "etcd", Title: "The guard of this service", Strategy: "etcd", Fence: strategy.FenceClaim, Replicas: 2, Sell: 2, Lease: true, Lesson: "paused-holder",
		Goal: "Try to sell the last unit twice.",
		Hint: "Pause the seller when it has read the stock, let the other replica take over, then resume the first. Look at what MySQL answers.",
		lost: "It cannot be won. A replica stores its token in the stock row before it reads the row (the claim). From then on a write with an older token matches no row, whenever it comes."},
}

func findLevel(name string) *Level {
	i := slices.IndexFunc(levels, func(l Level) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return &levels[i]
}

func (s *Server) listLevels(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, levels)
}
