package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"flashsale/client"
	"flashsale/internal/record"
	"flashsale/internal/sandbox"
	"flashsale/internal/sleep"
	"flashsale/internal/stock"
	"flashsale/loadtest/attack"
	"flashsale/loadtest/steps"
)

// A game is real replicas, one order at each, and a person who decides which replica goes
// on: you are the scheduler. A move is the number of a replica, which lets it make its next
// step, or resumes it; or "p" and the number, which pauses it past its lease.
//
// A move ends when no replica can go on by itself: each one has stopped before a step, is
// paused, has answered, or waits for another one. So the same choices give the same end.

const (
	maxMoves = 100
	// gameIdle is how long a game waits for a move, and gameLife how long it lasts at most.
	gameIdle = 10 * time.Minute
	gameLife = time.Hour
	// moveTimeout bounds a move. A lease lasts two seconds.
	moveTimeout = 20 * time.Second

	// quiet is how long nothing must happen after a move whose replicas have all stopped:
	// the last record may be on its way to its file. If a replica waits for another one,
	// quietWaiting is long enough for what could still reach it.
	quiet        = 60 * time.Millisecond
	quietWaiting = 400 * time.Millisecond
	// running is how long a replica may be under way before MySQL is asked for its row lock.
	running  = 100 * time.Millisecond
	gamePoll = 5 * time.Millisecond
	// noticed is how long a resumed replica has to notice that its lease has ended. The
	// client of etcd looks twice a second.
	noticed = time.Second

	gameSKU   = "lamp"
	gameUnits = 1
	gameLease = 2 * time.Second // etcd's least
)

var (
	playerNames = []string{"A", "B", "C"}
	buyerNames  = []string{"ann", "ben", "cleo"}
)

type game struct {
	level    *Level
	database string // a name
	product  sandbox.Product
	fleet    *sandbox.Fleet
	gate     *gate
	db       *stock.DB
	files    []*steps.File
	players  []*player
	answers  chan playerAnswer
	cleanUp  []func() error // called from the last to the first

	moves    []string // made so far
	steps    []record.Step
	refusals []Refusal
	pauses   []pause // and the ends of pauses
	// show is called while a replica waits for a row.
	show func()
}

// player is a replica of a game.
type player struct {
	*sandbox.Replica
	buyer    string
	ordered  bool // its order is sent
	answered bool
	answer   string // to its buyer
	paused   bool
	row      bool // it waits for the row, or has waited in this move
}

// isUnderWay reports whether the replica is in no step that a move would end. It may also
// wait for another replica.
func (p *player) isUnderWay(g *gate) bool {
	return p.ordered && !p.answered && !p.paused && g.next(p.Name) == nil
}

// pause is something that the lab did to a replica, or saw of it.
type pause struct {
	replica, text string
	at            time.Time
}

type playerAnswer struct {
	player *player
	text   string
}

// deal starts a game of a level. close must follow, also after an error.
func (s *stage) deal(ctx context.Context, level *Level, api string, servers *sandbox.Stack) (g *game, err error) {
	g = &game{level: level, product: servers.MySQL.Product, answers: make(chan playerAnswer, level.Replicas), show: func() {}}
	var dsn string
	if g.database, dsn, err = s.createDatabase(ctx, servers); err != nil {
		return g, err
	}
	if g.db, err = stock.Open(dsn, 2); err != nil {
		return g, err
	}
	g.cleanUp = append(g.cleanUp, g.dropDatabase)
	if g.gate, err = openGate(ctx); err != nil {
		return g, err
	}
	closeGate := func() error { g.gate.close(); return nil }
	g.cleanUp = append(g.cleanUp, closeGate)
	paths := make([]string, level.Replicas)
	for i := range paths {
		paths[i] = filepath.Join(servers.Dir(), g.database+"-"+playerNames[i])
	}
	g.cleanUp = append(g.cleanUp, func() error { return removeAll(paths) })
	g.fleet, err = sandbox.StartFleet(ctx, level.Replicas, func(i int) sandbox.ReplicaConfig {
		return sandbox.ReplicaConfig{
			Program: api, Replica: playerNames[i], MySQLDSN: dsn, EtcdEndpoints: servers.EtcdEndpoints(),
			Strategy: level.Strategy, Fence: string(level.Fence),
			Args: []string{
				"--trace-steps=" + paths[i], "--stop-before-steps=" + g.gate.addr(), "--lock-ttl=" + gameLease.String(),
				// No order ends by itself while a person thinks.
				"--request-timeout=" + (2 * gameLife).String(), "--payment-window=" + (2 * gameLife).String(),
			},
		}
	})
	if err != nil {
		return g, err
	}
	g.cleanUp = append(g.cleanUp, g.fleet.Stop, closeGate)
	for i, path := range paths {
		file, err := steps.Open(path)
		if err != nil {
			return g, err
		}
		g.cleanUp = append(g.cleanUp, file.Close)
		g.files, g.players = append(g.files, file), append(g.players, &player{Replica: g.fleet.Replicas[i], buyer: buyerNames[i]})
	}
	service := attack.Service{URL: g.players[0].URL, AdminToken: g.fleet.AdminToken}
	if err := service.PutOnSale(ctx, gameSKU, gameUnits); err != nil {
		return g, err
	}
	return g, g.order(ctx)
}

// order lets one buyer buy at each replica, one after the other.
func (g *game) order(ctx context.Context) error {
	for _, p := range g.players {
		buyer, err := client.New(client.Config{URLs: []string{p.URL}, Token: client.StaticToken(attack.Token(p.buyer, g.fleet.JWTSecret)), MaxTries: 1, TryTimeout: 2 * gameLife})
		if err != nil {
			return err
		}
		buying, stop := context.WithCancel(context.WithoutCancel(ctx))
		ended := make(chan struct{})
		p.ordered = true
		go func() {
			defer close(ended)
			_, err := buyer.Place(buying, client.Purchase{SKU: gameSKU, Quantity: 1, Key: "the key of " + p.buyer})
			g.answers <- playerAnswer{p, answerText(err)}
		}()
		g.cleanUp = append(g.cleanUp, func() error { stop(); <-ended; return nil })
		if err := g.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

func answerText(err error) string {
	if problem, ok := errors.AsType[*client.Problem](err); ok {
		return problem.Title
	}
	if err != nil {
		return err.Error()
	}
	return "order placed"
}

// close ends the game, and leaves nothing of it behind.
func (g *game) close() error {
	var errs []error
	for _, p := range g.players {
		if p.paused {
			errs = append(errs, p.Signal(sandbox.SIGCONT))
		}
	}
	for _, f := range slices.Backward(g.cleanUp) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (g *game) dropDatabase() error {
	ctx, cancel := context.WithTimeout(context.Background(), moveTimeout)
	defer cancel()
	_, err := g.db.SQL.ExecContext(ctx, "DROP DATABASE "+g.database)
	return errors.Join(err, g.db.Close())
}

func removeAll(paths []string) error {
	var errs []error
	for _, path := range paths {
		if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// checkMoves returns an error if a move has the wrong form, for a level.
func (l *Level) checkMoves(moves []string) error {
	if len(moves) > maxMoves {
		return fmt.Errorf("%d moves; a game has at most %d", len(moves), maxMoves)
	}
	for _, m := range moves {
		n, err := strconv.Atoi(strings.TrimPrefix(m, "p"))
		if err != nil || n < 1 || n > l.Replicas || strconv.Itoa(n) != strings.TrimPrefix(m, "p") {
			return fmt.Errorf("%q is not a move: a move is a number from 1 to %d, or p and such a number", m, l.Replicas)
		}
	}
	return nil
}

// move makes a move. It returns a Problem, and does nothing, if the move is not possible.
func (g *game) move(ctx context.Context, m string) error {
	if len(g.moves) >= maxMoves {
		return &Problem{Field: "move", Message: fmt.Sprintf("a game has at most %d moves: start it again", maxMoves)}
	}
	if err := g.level.checkMoves([]string{m}); err != nil {
		return &Problem{Field: "move", Message: err.Error()}
	}
	if !slices.ContainsFunc(g.possible(), func(possible Move) bool { return possible.Move == m }) {
		return &Problem{Field: "move", Message: fmt.Sprintf("%s is not possible now", m)}
	}
	g.moves = append(g.moves, m)
	for _, p := range g.players {
		p.row = false
	}
	p := g.players[m[len(m)-1]-'1']
	var err error
	switch stop := g.gate.next(p.Name); {
	case m[0] == 'p':
		err = g.pause(ctx, p)
	case p.paused:
		p.paused = false
		g.pauses = append(g.pauses, pause{p.Name, "is resumed", time.Now()})
		if err = p.Signal(sandbox.SIGCONT); err == nil {
			err = sleep.For(ctx, noticed)
		}
	default:
		g.gate.goOn(stop)
	}
	if err == nil {
		err = g.settle(ctx)
	}
	if err != nil {
		return fmt.Errorf("move %s: %w", m, err)
	}
	return nil
}

// pause stops a replica until its lock has ended at the server.
func (g *game) pause(ctx context.Context, p *player) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	other := g.players[slices.IndexFunc(g.players, func(o *player) bool { return o != p })]
	admin, err := client.New(client.Config{URLs: []string{other.URL}, Token: client.StaticToken(g.fleet.AdminToken)})
	if err != nil {
		return err
	}
	holder := func() (string, error) {
		locks, err := admin.Locks(ctx)
		if err != nil || len(locks) == 0 {
			return "", err
		}
		return fmt.Sprint(locks[0].Holder, locks[0].Token), nil
	}
	before, err := holder()
	if err != nil {
		return err
	}
	if err := p.Pause(ctx); err != nil {
		return err
	}
	p.paused = true
	g.pauses = append(g.pauses, pause{p.Name, "is stopped (SIGSTOP)", time.Now()})
	for {
		now, err := holder()
		if err != nil {
			return err
		}
		if now != before {
			g.pauses = append(g.pauses, pause{p.Name, "its lease has ended", time.Now()})
			return nil
		}
		if err := sleep.For(ctx, 10*gamePoll); err != nil {
			return fmt.Errorf("the lease of %s has not ended; start the game again: %w", p.Name, err)
		}
	}
}

// settle waits until no replica can go on by itself, and a person can decide who does. If all
// seem to wait, an answer is only late: those of a game never wait for each other for long.
func (g *game) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	began := time.Now()
	changed := began
	for {
		read, err := g.read()
		if err := errors.Join(err, g.fleet.Dead()); err != nil {
			return err
		}
		if read {
			changed = time.Now()
		}
		if need := g.needsQuiet(); need > 0 && time.Since(changed) >= need && (g.over() || len(g.possible()) > 0) {
			return g.explainRefusals(ctx)
		} else if need == 0 && time.Since(began) >= running {
			if err := g.findRowWaits(ctx); err != nil {
				return err
			}
		}
		select {
		case <-g.gate.changed:
			changed = time.Now()
		case a := <-g.answers:
			a.player.answered, a.player.answer = true, a.text
			changed = time.Now()
		case <-time.After(gamePoll):
		case <-ctx.Done():
			return fmt.Errorf("a replica has neither stopped nor answered within %s; start the game again: %w", moveTimeout, ctx.Err())
		}
	}
}

// read reads new steps. It reports whether there were any.
func (g *game) read() (bool, error) {
	n := len(g.steps)
	for _, f := range g.files {
		some, err := f.Read()
		if err != nil {
			return false, err
		}
		for _, s := range some {
			if s.SKU == gameSKU || s.Kind == record.Started {
				g.steps = append(g.steps, s)
			}
		}
	}
	if len(g.steps) == n {
		return false, nil
	}
	g.steps = steps.Merge(g.steps)
	return true, nil
}

// needsQuiet returns how long nothing must happen until the move has ended: 0 while a
// replica is under way.
func (g *game) needsQuiet() time.Duration {
	need := quiet
	for _, p := range g.players {
		if !p.isUnderWay(g.gate) {
			continue
		}
		if !g.waitsForLock(p.Name) && !g.waitsForSeller(p.Name) {
			return 0
		}
		need = quietWaiting
	}
	return need
}

// waitsForLock reports whether a replica has asked for the lock that another one has, and has
// no answer. A paused holder's lease has ended. If nobody has the lock, the answer is late.
func (g *game) waitsForLock(replica string) bool {
	if !slices.ContainsFunc(g.players, func(p *player) bool { return p.Name != replica && !p.paused && g.holds(p.Name) }) {
		return false
	}
	return g.last(replica, true) == record.LockAsked || g.last(replica, false) == record.LockAsked
}

// waitsForSeller reports whether a replica has forwarded its order and has no answer. Its desk
// may have asked for the seller's lock meanwhile: the order stays with the seller until that
// has succeeded.
func (g *game) waitsForSeller(replica string) bool {
	return g.last(replica, false) == record.Forwarded && !g.holds(replica)
}

// last returns the kind of the last step of a replica's desk, or of its order.
func (g *game) last(replica string, desk bool) record.Kind {
	for _, s := range slices.Backward(g.steps) {
		if s.Replica == replica && (s.Key == "") == desk {
			return s.Kind
		}
	}
	return ""
}

// holds reports whether a replica has a lock that it believes in.
func (g *game) holds(replica string) bool {
	for _, s := range slices.Backward(g.steps) {
		if s.Replica == replica && slices.Contains([]record.Kind{record.Locked, record.Unlocked, record.LockLost}, s.Kind) {
			return s.Kind == record.Locked
		}
	}
	return false
}

// over reports whether all buyers have their answers.
func (g *game) over() bool {
	return !slices.ContainsFunc(g.players, func(p *player) bool { return !p.answered })
}

// rowWaits count the statements in this database that wait for a row: first MariaDB's
// query, then MySQL's.
var rowWaits = map[sandbox.Product]string{
	sandbox.MariaDB: `SELECT COUNT(*) FROM information_schema.INNODB_TRX t
		JOIN information_schema.PROCESSLIST p ON p.id = t.trx_mysql_thread_id WHERE t.trx_state = 'LOCK WAIT' AND p.db = DATABASE()`,
	sandbox.RealMySQL: `SELECT COUNT(*) FROM performance_schema.data_lock_waits w
		JOIN performance_schema.processlist p ON PS_THREAD_ID(p.id) = w.REQUESTING_THREAD_ID WHERE p.db = DATABASE()`,
}

// findRowWaits asks MySQL whether the replica that is under way waits for a row.
func (g *game) findRowWaits(ctx context.Context) error {
	var waits int
	if err := g.db.SQL.QueryRowContext(ctx, rowWaits[g.product]).Scan(&waits); err != nil {
		return fmt.Errorf("ask MySQL who waits for a row: %w", err)
	}
	if waits == 0 {
		return nil
	}
	for _, p := range g.players {
		if !p.row && p.isUnderWay(g.gate) {
			p.row = true
			g.show()
		}
	}
	return nil
}

func (s *Server) serveGames() {
	s.mux.HandleFunc("GET /api/levels", s.listLevels)
	s.mux.HandleFunc("POST /api/games", s.startGame)
	s.mux.HandleFunc("POST /api/games/{id}/moves", s.makeMove)
}

// request is a move that a page asks for.
type request struct {
	move string
	done chan<- error
}

// startGame begins a game, and makes the choices of a link. It ends the game under way:
// there is one game, and it belongs to whoever plays.
func (s *Server) startGame(w http.ResponseWriter, r *http.Request) {
	var want struct {
		Level   string   `json:"level"`
		Choices []string `json:"choices"`
	}
	if !decode(w, r, &want) {
		return
	}
	level := findLevel(want.Level)
	if level == nil {
		fail(w, http.StatusUnprocessableEntity, &Problem{Field: "level", Message: fmt.Sprintf("there is no level %q", want.Level)})
		return
	}
	if err := level.checkMoves(want.Choices); err != nil {
		fail(w, http.StatusUnprocessableEntity, &Problem{Field: "choices", Message: err.Error()})
		return
	}
	if !s.endGame(r.Context()) {
		return
	}
	s.start(w, "game", level.Title, func(ctx context.Context, a *activity) error { return s.play(ctx, a, level, want.Choices) })
}

// endGame ends the game under way, if there is one. It returns false if the caller has left.
func (s *Server) endGame(ctx context.Context) bool {
	s.mu.Lock()
	var last *activity
	if n := len(s.activities); n > 0 && s.activities[n-1].Kind == "game" {
		last = s.activities[n-1]
	}
	s.mu.Unlock()
	if last == nil {
		return true
	}
	last.cancel()
	select {
	case <-last.ended:
		return true
	case <-ctx.Done():
		return false
	}
}

// makeMove answers 204 when the move is made and the journal has the new state.
func (s *Server) makeMove(w http.ResponseWriter, r *http.Request) {
	var want struct {
		Move string `json:"move"`
	}
	a := s.find(w, r)
	if a == nil || !decode(w, r, &want) {
		return
	}
	if a.Kind != "game" {
		fail(w, http.StatusNotFound, &Problem{Message: "this is not a game"})
		return
	}
	done := make(chan error, 1)
	select {
	case a.moves <- request{want.Move, done}:
	case <-a.ended:
		fail(w, http.StatusConflict, &Problem{Message: "this game is over"})
		return
	case <-r.Context().Done():
		return
	}
	err := <-done
	switch problem, refused := errors.AsType[*Problem](err); {
	case refused:
		fail(w, http.StatusUnprocessableEntity, problem)
	case errors.Is(err, context.Canceled): // by another page, in the middle of the move
		fail(w, http.StatusConflict, &Problem{Message: "this game is over"})
	case err != nil:
		fail(w, http.StatusInternalServerError, &Problem{Message: err.Error()})
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

// play plays a game until all replicas have answered. Its journal has a GameState after
// each move, and a Phase before the first.
func (s *Server) play(ctx context.Context, a *activity, level *Level, choices []string) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, gameLife, fmt.Errorf("the game took more than %s", gameLife))
	defer cancel()
	a.say("phase", Phase{Side: -1, Text: "Starting MySQL and etcd"})
	servers, err := s.stage.enter(ctx, &s.cfg)
	if err != nil {
		return err
	}
	defer s.stage.leave()
	a.say("phase", Phase{Side: -1, Text: fmt.Sprintf("Starting %d replicas", level.Replicas)})
	g, err := s.stage.deal(ctx, level, s.cfg.API, servers)
	defer func() { err = errors.Join(err, g.close()) }()
	if err != nil {
		return err
	}
	say := func() error {
		state, err := g.state(ctx)
		if err == nil {
			a.say("state", state)
		}
		return err
	}
	g.show = func() { _ = say() } // the state after the move has what this one lacks
	if err := say(); err != nil {
		return err
	}
	for _, m := range choices {
		if g.over() {
			return &Problem{Field: "choices", Message: fmt.Sprintf("the game is over after %d of the %d moves", len(g.moves), len(choices))}
		}
		err := g.move(ctx, m)
		if problem, refused := errors.AsType[*Problem](err); refused {
			return &Problem{Field: "choices", Message: fmt.Sprintf("move %d of %d: %s; start the level again", len(g.moves)+1, len(choices), problem.Message)}
		}
		if err != nil {
			return err
		}
		if err := say(); err != nil {
			return err
		}
	}
	for !g.over() {
		select {
		case r := <-a.moves:
			err := g.move(ctx, r.move)
			_, refused := errors.AsType[*Problem](err)
			if err == nil {
				err = say()
			}
			r.done <- err
			if err != nil && !refused {
				return err
			}
		case <-time.After(gameIdle):
			return fmt.Errorf("no move came for %s: start the game again", gameIdle)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
