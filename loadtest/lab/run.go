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
	// Fault is the name of one of Faults.
	Fault string `json:"fault"`
	Seed  uint64 `json:"seed"`
}

// The messages of a run's journal, besides the last one: "phase", "state", "happened" and
// "side". Side is 0 for the left strategy and 1 for the right one.

// Phase is what is done now: "Starting MySQL and etcd", for example.
type Phase struct {
	Side int    `json:"side"`
	Text string `json:"text"`
}

// State is a side while it runs, ten times a second.
type State struct {
	Side int `json:"side"`
	// MS is the time since the first order.
	MS int64 `json:"ms"`
	// Available is in the stock row, Sold in orders, and Oversold is Sold beyond Units.
	Available int64 `json:"available"`
	Sold      int64 `json:"sold"`
	Oversold  int64 `json:"oversold"`
	// Accepted, Refused and Errors are answers; Rate is answers a second, of the last second.
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
	// Token is that of its lock or tenure; 0 if it holds none.
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
	// Kind is "fault", "healed", "took-over", "seller" (a new tenure), "lock-lost" or "fenced".
	Kind    string `json:"kind"`
	Replica string `json:"replica"`
	To      string `json:"to"`
	Token   uint64 `json:"token"`
	Text    string `json:"text"`
}

// Side is the result of one strategy.
type Side struct {
	Side     int       `json:"side"`
	Strategy string    `json:"strategy"`
	Run      proof.Run `json:"run"`
	// Race: the diagram shows two orders that sold the same unit. Otherwise it shows the
	// order that took the last unit, and one that was refused.
	Race    bool     `json:"race"`
	Diagram *Diagram `json:"diagram"` // nil if no order was refused either
	// Explains says in a sentence or two what the diagram shows.
	Explains string `json:"explains"`
	// DiagramMS is the time from the end of the load until the diagram was there.
	DiagramMS int64 `json:"diagram_ms"`
}
