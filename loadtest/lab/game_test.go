package lab

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
)

// solutions win the levels that can be won. The comments name what each move does.
var solutions = map[string]string{
	"none":           "1 2 1 1 2 2 1 2",              // both read; A writes, commits; B writes, commits; both answer
	"three":          "1 2 3 1 1 2 2 3 3 1 2 3",      // the same with three
	"process":        "1 2 1 2 1 1 2 2 1 1 2 2",      // both lock, both read; A writes, commits; B likewise; both unlock and answer
	"textbook":       "1 1 p1 2 2 2 2 2 1 1 1 1 1 2", // A locks, reads, is paused; B sells; A resumes, writes and commits what it computed
	"fence-on-write": "1 1 p1 2 2 1 1 1 1 2 2 2",     // A locks, reads, is paused; B locks, reads; A resumes, writes; B writes
}

// games lets a test play games on servers of its own.
type games struct {
	t       *testing.T
	stage   stage
	cfg     *Config
	servers *sandbox.Stack
}

func newGames(t *testing.T) *games {
	t.Helper()
	sandboxtest.NeedsDatabase(t)
	g := &games{t: t, cfg: &Config{API: sandboxtest.Build(t, "api"), EtcdProgram: []string{sandboxtest.Build(t, "etcdnode")}}}
	servers, err := g.stage.enter(t.Context(), g.cfg)
	if err != nil {
		t.Fatal(err)
	}
	g.servers = servers
	t.Cleanup(func() {
		g.stage.leave()
		g.stage.close()
		if left := servers.Left(); len(left) > 0 {
			t.Errorf("the servers left %q", left)
		}
	})
	return g
}

// errDisturbed is the error of a game in which a choice was not possible. The lab takes a
// replica that is silent for quietWaiting as one that waits for another. It may only be
// slow, as its server may be: the game then goes another way, and the product is not at fault.
var errDisturbed = errors.New("the choice is not possible")

// play plays a game: choose returns the next of the possible moves. It returns the end,
// or an error.
func (s *games) play(level *Level, choose func(possible []Move) string) (end *GameState, err error) {
	ctx := context.WithoutCancel(s.t.Context())
	g, err := s.stage.deal(ctx, level, s.cfg.API, s.servers)
	defer func() { err = errors.Join(err, g.close()) }()
	if err != nil {
		return nil, err
	}
	for !g.over() {
		possible := g.possible()
		m := choose(possible)
		if !slices.ContainsFunc(possible, func(p Move) bool { return p.Move == m }) {
			return nil, fmt.Errorf("after %q: %w: %s, of %v", g.moves, errDisturbed, m, possible)
		}
		if err := g.move(ctx, m); err != nil {
			return nil, fmt.Errorf("after %q: %w", g.moves, err)
		}
	}
	return g.state(ctx)
}

// replay is play, but begins again after a disturbed game. It uses up the replays that are
// left: if more games are disturbed, the machine is not the reason.
func (s *games) replay(level *Level, left *int, begin func() (choose func(possible []Move) string)) (end *GameState, err error) {
	for {
		end, err = s.play(level, begin())
		if !errors.Is(err, errDisturbed) || *left == 0 {
			return end, err
		}
		*left--
		s.t.Logf("%s is played again: %v", level.Name, err)
	}
}

// inTurn makes these moves.
func inTurn(moves string) func([]Move) string {
	left := strings.Fields(moves)
	return func([]Move) string {
		if len(left) == 0 {
			return "no move, as the choices are used up"
		}
		m := left[0]
		left = left[1:]
		return m
	}
}

// The same choices give the same end, each time.
func TestSolutionsWin(t *testing.T) {
	t.Parallel()
	s := newGames(t)
	for _, level := range levels {
		if _, solved := solutions[level.Name]; solved != level.Winnable {
			t.Errorf("%s: winnable is %v, and a solution is there: %v", level.Name, level.Winnable, solved)
		}
	}
	const times = 5
	for name, moves := range solutions {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var first string
			replays := 2
			for range times {
				began := time.Now()
				end, err := s.replay(findLevel(name), &replays, func() func([]Move) string { return inTurn(moves) })
				if err != nil {
					t.Fatal(err)
				}
				if !end.Won || len(end.Orders) != findLevel(name).Sell || !slices.Equal(end.Choices, strings.Fields(moves)) {
					t.Fatalf("the end is %+v", end)
				}
				got := story(end)
				if first == "" {
					first = got
					t.Logf("%s\n%s (%s)", got, end.Happened, time.Since(began).Round(time.Millisecond))
				}
				if got != first {
					t.Errorf("the same choices gave\n%s\nand before\n%s", got, first)
				}
			}
		})
	}
}

// story is a game's diagram in words, without times and identifiers.
func story(end *GameState) string {
	var lines []string
	for _, s := range end.Diagram.Steps {
		lines = append(lines, fmt.Sprintf("%s -> %s: %s %s", end.Diagram.Lanes[s.Lane].Name, end.Diagram.Lanes[s.To].Name, s.Kind, tokens.ReplaceAllString(s.Text, "token")))
	}
	return strings.Join(lines, "\n")
}

var tokens = regexp.MustCompile(`token \d+`)

// tree has the choices that are not tried yet. Each is a prefix of a game.
type tree struct {
	mu    sync.Mutex
	todo  [][]string
	games int
	under int // games under way, which may find more
	// strayed counts the games in which a move of a prefix was not possible. A take-over
	// goes by the clock: if the machine starves a seller for 90 ms, others ask for its lock.
	strayed int
}

// take returns the next prefix. It waits while none is known, and another game may find one.
func (t *tree) take(most int) ([]string, bool) {
	for {
		t.mu.Lock()
		if len(t.todo) > 0 && t.games < most {
			// In turn from both ends: games that differ late, and those that differ early.
			i := 0
			if t.games%2 == 0 {
				i = len(t.todo) - 1
			}
			prefix := t.todo[i]
			t.todo = slices.Delete(t.todo, i, i+1)
			t.games++
			t.under++
			t.mu.Unlock()
			return prefix, true
		}
		none := t.under == 0 || t.games >= most
		t.mu.Unlock()
		if none {
			return nil, false
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (t *tree) played() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.under--
}

// follow makes the moves of a prefix, and then the first that is possible. It notes the
// other ones. A game has one pause.
func (t *tree) follow(prefix []string) func([]Move) string {
	var made []string
	return func(possible []Move) string {
		var moves []string
		for _, m := range possible {
			if m.Move[0] != 'p' || !slices.ContainsFunc(made, func(m string) bool { return m[0] == 'p' }) {
				moves = append(moves, m.Move)
			}
		}
		if len(moves) == 0 {
			return "none" // play returns an error: a replica that may be paused can always go on instead
		}
		m := moves[0]
		switch {
		case len(made) < len(prefix) && slices.ContainsFunc(possible, func(p Move) bool { return p.Move == prefix[len(made)] }):
			m = prefix[len(made)]
		case len(made) < len(prefix):
			t.mu.Lock()
			t.strayed++
			t.mu.Unlock()
			prefix = nil
		default:
			t.mu.Lock()
			for _, other := range moves[1:] {
				t.todo = append(t.todo, append(slices.Clone(made), other))
			}
			t.mu.Unlock()
		}
		made = append(made, m)
		return m
	}
}

// No interleaving of the choices under the default strategy wins, whoever is paused and
// whenever they resume. The choices are tried in the order of a tree, from both ends.
func TestGuardCannotBeBeaten(t *testing.T) {
	t.Parallel()
	s := newGames(t)
	const most, atOnce = 60, 2
	tree := &tree{todo: [][]string{nil}}
	var players sync.WaitGroup
	refused := 0
	for range atOnce {
		players.Go(func() {
			for prefix, ok := tree.take(most); ok; prefix, ok = tree.take(most) {
				end, err := s.play(findLevel("etcd"), tree.follow(prefix))
				tree.played()
				if err != nil {
					t.Errorf("after %q: %v", prefix, err)
					return
				}
				if end.Won || len(end.Orders) != 1 || end.Available != 0 {
					t.Errorf("%q sold %d units; the row has %d", end.Choices, len(end.Orders), end.Available)
				}
				tree.mu.Lock()
				refused += min(1, len(end.Refusals))
				tree.mu.Unlock()
			}
		})
	}
	players.Wait()
	t.Logf("%d games, %d prefixes not played; %d strayed; MySQL refused a write in %d games", tree.games, len(tree.todo), tree.strayed, refused)
	// Half of the games is enough to have tried prefixes of all lengths, and the end of a strayed
	// game was checked, too.
	if tree.games < most/2 || refused == 0 || tree.strayed > most/2 {
		t.Errorf("%d games were played, %d strayed, and MySQL refused a write in %d", tree.games, tree.strayed, refused)
	}
}

// A person may think for longer than the service's usual limits: of a request, of reading
// its body, and of a batch's time.
func TestPersonMayThink(t *testing.T) {
	t.Parallel()
	s := newGames(t)
	for _, level := range []string{"none", "etcd"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			end, err := s.play(findLevel(level), func(possible []Move) string {
				if strings.HasPrefix(possible[0].Text, "write") {
					time.Sleep(11 * time.Second)
				}
				return possible[0].Move
			})
			if err != nil {
				t.Fatal(err)
			}
			if len(end.Orders) != 1 || end.Players[0].Says != "has answered ann: order placed." {
				t.Errorf("the end is %+v", end)
			}
		})
	}
}

// What cannot be won under the claim can be won without it, by the same choices: so the
// games would show a guard that does not hold.
func TestWithoutTheClaimTheGuardIsBeaten(t *testing.T) {
	t.Parallel()
	s := newGames(t)
	for fence, won := range map[strategy.Fence]bool{strategy.FenceOff: true, strategy.FenceClaim: false} {
		t.Run(string(fence), func(t *testing.T) {
			t.Parallel()
			level := *findLevel("etcd")
			level.Fence = fence
			replays := 2
			end, err := s.replay(&level, &replays, func() func([]Move) string {
				first, made := inTurn("1 1 p1 2 2 2 1 1"), 0
				return func(possible []Move) string {
					if made++; made <= 8 {
						return first(possible)
					}
					return possible[0].Move
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if end.Won != won || won != (len(end.Refusals) == 0) {
				t.Errorf("the end is %+v", end)
			}
			t.Log(end.Happened)
		})
	}
}

// The next game gets new servers if one of the old ones has died.
func TestServersOfGamesAreReplaced(t *testing.T) {
	sandboxtest.NeedsDatabase(t)
	var s stage
	t.Cleanup(s.close)
	cfg := &Config{EtcdProgram: []string{sandboxtest.Build(t, "etcdnode")}}
	var last *sandbox.Stack
	for _, kill := range []func(){func() { last.MySQL.Kill() }, func() { last.Etcd[0].Kill() }, func() {}} {
		servers, err := s.enter(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		s.leave()
		sandboxtest.OnlyOwn(t, servers)
		if servers == last {
			t.Error("a server has died, and is used again")
		}
		if _, _, err := s.createDatabase(t.Context(), servers); err != nil {
			t.Error(err)
		}
		last = servers
		kill()
	}
}
