package lab

// Diagram is a sequence diagram: what several actors did, in the order of time. Runs,
// lessons and games are all drawn from it, by diagram.js.
type Diagram struct {
	Lanes []Lane        `json:"lanes"`
	Steps []DiagramStep `json:"steps"`
}

// Lane is one actor, in the order from left to right.
type Lane struct {
	Name string `json:"name"`
	// Kind is "replica", "buyer", "database", "lock" or "other".
	Kind string `json:"kind"`
}

// DiagramStep is something that an actor did.
type DiagramStep struct {
	// US is the time since the first step, in microseconds.
	US   int64 `json:"us"`
	Lane int   `json:"lane"`
	// To is the lane that an arrow goes to, or Lane for a step without an arrow.
	To int `json:"to"`
	// Kind gives the step its look: "read", "write", "commit", "lock", "refuse", "forward",
	// "answer", "fault" or "note".
	Kind string `json:"kind"`
	Text string `json:"text"`
	// Order tells the orders of the diagram apart: 1, 2 and so on; 0 for none.
	Order int `json:"order"`
	// Wrong marks the steps without which the unit had not been sold twice.
	Wrong bool `json:"wrong"`
	// Detail has what the record says, line by line.
	Detail []string `json:"detail"`
}
