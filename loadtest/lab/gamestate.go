package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"flashsale/internal/order"
	"flashsale/internal/record"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/internal/strategy"
	"flashsale/loadtest/lesson/testbed"
	"flashsale/loadtest/steps"
)

// GameState is a game after a move.
type GameState struct {
	Level   string   `json:"level"`
	Choices []string `json:"choices"`
	// Players are the replicas, in the order of their numbers.
	Players []Player `json:"players"`
	// Moves are possible now.
	Moves []Move `json:"moves"`
	// Units, Available, Fence and Seq are in the stock row, as others see it.
	Units     int64       `json:"units"`
	Available int64       `json:"available"`
	Fence     uint64      `json:"fence"`
	Seq       uint64      `json:"seq"`
	Orders    []GameOrder `json:"orders"`
	// Refusals are writes that matched no row, in the order of time.
	Refusals []Refusal `json:"refusals"`
	Diagram  *Diagram  `json:"diagram"`
	// Over: all buyers have their answers. Won, and the texts, are set then.
	Over     bool   `json:"over"`
	Won      bool   `json:"won"`
	Happened string `json:"happened"`
	Why      string `json:"why"`
}

// Player is a replica of a game.
type Player struct {
	Name  string `json:"name"`
	Buyer string `json:"buyer"`
	// Condition is "stopped", "paused", "waits" or "answered".
	Condition string `json:"condition"`
	// Says is what it is about to do, or what it waits for.
	Says string `json:"says"`
	// Read is how many units it has read, and goes by; nil if it has read none yet.
	Read *int64 `json:"read"`
	// Token is that of the lock that it believes to hold.
	Token uint64 `json:"token"`
	Holds bool   `json:"holds"`
}

// Move is a choice, and what it does, for people.
type Move struct {
	Move string `json:"move"`
	Text string `json:"text"`
}

// GameOrder is a row of the table of orders.
type GameOrder struct {
	Customer string `json:"customer"`
	Status   string `json:"status"`
	Seq      uint64 `json:"seq"`
	Token    uint64 `json:"token"`
}

// Refusal is a write, or a claim, that MySQL did not make.
type Refusal struct {
	// Move is the number of the move in which it happened, from 1.
	Move      int    `json:"move"`
	Replica   string `json:"replica"`
	Statement string `json:"statement"`
	Why       string `json:"why"`

	step time.Time
}

// state reads the state of the game. At its end it waits for the last records.
func (g *game) state(ctx context.Context) (*GameState, error) {
	s := &GameState{Level: g.level.Name, Moves: []Move{}, Over: g.over()}
	if s.Over {
		if err := g.awaitAnswers(ctx); err != nil {
			return nil, err
		}
	} else {
		s.Moves = g.possible()
	}
	row, err := g.row(ctx)
	if err != nil {
		return nil, err
	}
	s.Units, s.Available, s.Fence, s.Seq = row.Units, row.Available, row.Fence, row.Seq
	orders, err := stock.Query(ctx, g.db.SQL, func(o *GameOrder) []any { return []any{&o.Customer, &o.Status, &o.Seq, &o.Token} },
		"SELECT customer, status, seq, fence FROM orders ORDER BY seq, id")
	// Empty lists are no null in JSON.
	s.Choices, s.Orders, s.Refusals = append([]string{}, g.moves...), append([]GameOrder{}, orders...), append([]Refusal{}, g.refusals...)
	if err != nil {
		return nil, fmt.Errorf("read the orders: %w", err)
	}
	for _, p := range g.players {
		s.Players = append(s.Players, g.player(p))
	}
	s.Diagram = g.diagram()
	if s.Over {
		err = g.end(ctx, s)
	}
	return s, err
}

// diagram draws the records, and the pauses of replicas.
func (g *game) diagram() *Diagram {
	d := diagramOf(g.steps)
	first := slices.IndexFunc(g.steps, func(s record.Step) bool { return s.SKU == gameSKU })
	for _, p := range g.pauses {
		lane := slices.IndexFunc(d.Lanes, func(l Lane) bool { return l.Name == p.replica })
		step := DiagramStep{US: p.at.Sub(g.steps[first].Wall).Microseconds(), Lane: lane, To: lane, Kind: "fault", Text: p.text, Detail: []string{"done or seen by the lab"}}
		i := slices.IndexFunc(d.Steps, func(s DiagramStep) bool { return s.US > step.US })
		if i < 0 {
			i = len(d.Steps)
		}
		d.Steps = slices.Insert(d.Steps, i, step)
	}
	return d
}

func (g *game) row(ctx context.Context) (stock.Stock, error) { return g.db.Get(ctx, gameSKU) }

// awaitAnswers waits until each answer is in the records.
func (g *game) awaitAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	for {
		if _, err := g.read(); err != nil {
			return err
		}
		answered := 0
		for _, s := range g.steps {
			if s.Kind == record.Answered {
				answered++
			}
		}
		if answered == len(g.players) {
			return nil
		}
		if err := sleep.For(ctx, gamePoll); err != nil {
			return fmt.Errorf("%d of %d answers were recorded: %w", answered, len(g.players), err)
		}
	}
}

// possible lists the moves that are possible now.
func (g *game) possible() []Move {
	moves := []Move{}
	isPaused := slices.ContainsFunc(g.players, func(p *player) bool { return p.paused })
	for i, p := range g.players {
		stop := g.gate.next(p.Name)
		number := fmt.Sprint(i + 1)
		switch {
		case p.paused:
			moves = append(moves, Move{number, "resume"})
			continue
		case stop != nil:
			moves = append(moves, Move{number, g.next(stop)})
		}
		// One at a time: the other one is asked whether the lease has ended. A replica that has
		// not read yet may notice after the pause that its lock is lost, or not: it depends on
		// whether its clock or etcd is faster, and the same choices would have several ends.
		if g.level.Lease && !isPaused && g.holds(p.Name) && stop != nil && (stop.Step == order.BeforeWrite || stop.Step == order.BeforeCommit) {
			moves = append(moves, Move{"p" + number, "pause past its lease"})
		}
	}
	return moves
}

// next says what a stopped replica does next.
func (g *game) next(s *stop) string {
	switch s.Step {
	case order.BeforeLock:
		return "ask for the lock"
	case order.BeforeClaim:
		return "claim and read the row"
	case order.BeforeRead:
		return "read the stock"
	case order.BeforeWrite:
		if read := g.readBy(s.Replica); read != nil && *read > 0 {
			return fmt.Sprintf("write %d", *read-1)
		}
		return "decide the order"
	case order.BeforeCommit:
		return "commit"
	case order.BeforeUnlock:
		return "release the lock"
	}
	return "answer the buyer"
}

// readBy returns what a replica has read, unless it has begun again since.
func (g *game) readBy(replica string) *int64 {
	for _, s := range slices.Backward(g.steps) {
		if s.Replica != replica {
			continue
		}
		switch s.Kind {
		case record.Read, record.Claimed:
			return s.Before
		case record.Rejected, record.LockAsked, record.Unlocked, record.LockLost:
			return nil
		}
	}
	return nil
}

func (g *game) tokenOf(replica string) uint64 {
	for _, s := range slices.Backward(g.steps) {
		if s.Replica == replica && s.Kind == record.Locked {
			return s.Token
		}
	}
	return 0
}

func (g *game) player(p *player) Player {
	shown := Player{Name: p.Name, Buyer: p.buyer, Read: g.readBy(p.Name), Holds: g.holds(p.Name)}
	if shown.Holds {
		shown.Token = g.tokenOf(p.Name)
	}
	stop := g.gate.next(p.Name)
	if stop != nil && slices.Contains([]order.Step{order.BeforeLock, order.BeforeClaim, order.BeforeRead}, stop.Step) {
		shown.Read = nil // it begins again
	}
	switch {
	case p.paused:
		shown.Condition, shown.Says = "paused", "is paused, and its lease has ended. It cannot notice that while it is paused."
	case stop != nil && p.row:
		shown.Condition, shown.Says = "stopped", "had to wait for the row, which another order has locked. After 1 s MySQL gave up (error 1205) and rolled it back. It begins again. Next step: "+g.next(stop)+"."
	case stop != nil:
		shown.Condition, shown.Says = "stopped", "waits for you. Next step: "+g.next(stop)+"."
	case p.answered:
		shown.Condition, shown.Says = "answered", fmt.Sprintf("has answered %s: %s.", p.buyer, p.answer)
	case p.row:
		shown.Condition, shown.Says = "waits", "waits for the row, which another order has locked."
	case g.waitsForSeller(p.Name) && !g.waitsForLock(p.Name):
		shown.Condition, shown.Says = "waits", "has forwarded its order to the seller, and waits for the answer."
	default:
		shown.Condition, shown.Says = "waits", "waits for the lock, which another replica holds."
	}
	return shown
}

// explainRefusals adds the new writes that had no effect, with what stands in the row now.
func (g *game) explainRefusals(ctx context.Context) error {
	for _, s := range g.steps {
		known := slices.ContainsFunc(g.refusals, func(r Refusal) bool { return r.Replica == s.Replica && r.step.Equal(s.Wall) })
		if s.Kind != record.Rejected || s.Token == 0 || known {
			continue
		}
		row, err := g.row(ctx)
		if err != nil {
			return err
		}
		r := Refusal{Move: len(g.moves), Replica: s.Replica, step: s.Wall}
		switch {
		case s.After == nil:
			r.Statement = fmt.Sprintf("UPDATE stock SET fence = %d WHERE sku = '%s' AND fence < %d", s.Token, gameSKU, s.Token)
		case g.level.Fence == strategy.FenceWrite:
			r.Statement = fmt.Sprintf("UPDATE stock SET available = %d, fence = %d WHERE sku = '%s' AND fence <= %d", *s.After, s.Token, gameSKU, s.Token)
		default:
			r.Statement = fmt.Sprintf("UPDATE stock SET available = available - %d WHERE sku = '%s' AND fence = %d AND seq = %d AND available >= %d",
				s.Quantity, gameSKU, s.Token, s.Seq-1, s.Quantity)
		}
		r.Why = fmt.Sprintf("no row matched: the row has seq %d, so it was written since %s had read it", row.Seq, s.Replica)
		if row.Fence > s.Token {
			r.Why = fmt.Sprintf("no row matched: the token of %s is %d, and the row has fence %d, the token of %s. %d < %d", s.Replica, s.Token, row.Fence, g.holderOf(row.Fence), s.Token, row.Fence)
		}
		g.refusals = append(g.refusals, r)
	}
	return nil
}

// holderOf returns the replica that a token was granted to.
func (g *game) holderOf(token uint64) string {
	i := slices.IndexFunc(g.steps, func(s record.Step) bool { return s.Kind == record.Locked && s.Token == token })
	if i < 0 {
		return "another replica"
	}
	return g.steps[i].Replica
}

// end says what happened, by the audit and the records, and why it could.
func (g *game) end(ctx context.Context, s *GameState) error {
	report, err := stock.Audit(ctx, g.db)
	if err != nil {
		return err
	}
	oversold := report.SKUs[0].Oversold
	s.Won = oversold >= int64(g.level.Sell)-gameUnits
	s.Happened = fmt.Sprintf("%d orders got the only unit.", oversold+gameUnits)
	if oversold == 0 {
		s.Happened = "The unit was sold once."
	}
	if race := steps.Interleaving(g.steps, gameSKU); race != nil {
		s.Happened += " " + inWords(race) + "."
	}
	if len(s.Refusals) > 0 {
		r := s.Refusals[0]
		s.Happened += fmt.Sprintf(" In move %d MySQL refused the write of %s: %s.", r.Move, r.Replica, r.Why)
	}
	s.Why = g.level.lost
	if s.Won {
		s.Why = g.level.won
	}
	return nil
}

// inWords tells the reads and writes of an interleaving.
func inWords(race []record.Step) string {
	var told []string
	for _, s := range race {
		switch s.Kind {
		case record.Read, record.Claimed:
			told = append(told, fmt.Sprintf("%s read %s", s.Replica, testbed.Units(*s.Before)))
		case record.Wrote:
			told = append(told, fmt.Sprintf("%s wrote %d", s.Replica, *s.After))
		case record.Committed:
			told = append(told, fmt.Sprintf("%s committed %d", s.Replica, *s.After))
		}
	}
	return strings.Join(told, ", ")
}
