package lab

import (
	"flashsale/internal/strategy"
	"flashsale/loadtest/proof"
)

// Setting is what a person chooses for a run. Its JSON fields are also the parameters of the
// page's address, so that a run can be handed on as a link.
type Setting struct {
	// Strategy is the left side. Against, if not "", runs after it, and is shown beside it.
	Strategy string         `json:"strategy"`
	Against  string         `json:"against"`
	Fence    strategy.Fence `json:"fence"`
	Replicas int            `json:"replicas"`
	Units    int64          `json:"units"`
	// Buyers is how many orders are sent, each by a customer of its own, at Rate a second.
	Buyers  int `json:"buyers"`
	Rate    int `json:"rate"`
	ThinkMS int `json:"think_ms"`
	// Fault is the name of one of the faults in Options.
	Fault string `json:"fault"`
	// Seed determines customers and keys. 0 picks a seed.
	Seed uint64 `json:"seed"`
}

// The messages of a run's journal: first "setting", then "phase", "state", "happened" and
// "side", and the last one. Side is 0 for the left strategy and 1 for the right one, which
// runs after it.

// Chosen is the run's setting, with all values that it did not name, and the defaults.
type Chosen struct {
	Setting  Setting `json:"setting"`
	Defaults Setting `json:"defaults"`
}

// Phase is what is done now: "Starting MySQL and etcd", for example. Its side is -1 if it
// is done for both.
type Phase struct {
	Side int    `json:"side"`
	Text string `json:"text"`
}

// State is a side while it runs: ten times a second, and later twice a second. The first
// one comes before the first order.
type State struct {
	Side int `json:"side"`
	// MS is the time since the first order was due.
	MS int64 `json:"ms"`
	// Available is in the stock row, Sold in orders, and Oversold is Sold beyond Units.
	Available int64 `json:"available"`
	Sold      int64 `json:"sold"`
	Oversold  int64 `json:"oversold"`
	// Accepted, Refused and Errors are answers, of which Errors includes those that never
	// came. Rate is answers a second, of the last second.
	Accepted int64          `json:"accepted"`
	Refused  int64          `json:"refused"`
	Errors   int64          `json:"errors"`
	Rate     float64        `json:"rate"`
	Replicas []ReplicaState `json:"replicas"`
}

// ReplicaState is one lane.
type ReplicaState struct {
	Name string `json:"name"`
	// Condition is "up", "paused", "killed" or "cut off".
	Condition string `json:"condition"`
	// Holds says that it holds the SKU's lock, by its own records. Token is that of the
	// lock, or 0 if the lock has none.
	Holds bool   `json:"holds"`
	Token uint64 `json:"token"`
	// Sold and Refused are its decisions. Forwarded counts the orders that it sent to others,
	// by name.
	Sold      int64            `json:"sold"`
	Refused   int64            `json:"refused"`
	Forwarded map[string]int64 `json:"forwarded"`
}

// Happened is a moment that the lanes mark.
type Happened struct {
	Side int   `json:"side"`
	MS   int64 `json:"ms"`
	// Kind is "fault", "healed", "took-over", "seller" (a new tenure), "lock-lost" or
	// "fenced" (MySQL refused a write, because there is a newer token).
	Kind string `json:"kind"`
	// Replica is who did it, or whom it was done to; a node of etcd has its name. To is the
	// other one, of two.
	Replica string `json:"replica"`
	To      string `json:"to"`
	Token   uint64 `json:"token"`
	Text    string `json:"text"`
}

// Side is the result of one strategy.
type Side struct {
	Side     int    `json:"side"`
	Strategy string `json:"strategy"`
	// Database is the product, with its version.
	Database string    `json:"database"`
	Run      proof.Run `json:"run"`
	// Sentence is the verdict, for people.
	Sentence string `json:"sentence"`
	// Race: the diagram shows two orders that sold the same unit. Otherwise it shows the
	// order that took the last unit, and one that was refused.
	Race    bool     `json:"race"`
	Diagram *Diagram `json:"diagram"` // nil if no order was refused either
	// Explains says in a sentence or two what the diagram shows.
	Explains string `json:"explains"`
	// DiagramMS is the time from the end of the load until the diagram was there.
	DiagramMS int64 `json:"diagram_ms"`
	// StepsLost is the number of steps that are known to be missing in the records.
	StepsLost int64 `json:"steps_lost"`
}
