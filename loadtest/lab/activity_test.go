package lab

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

// A page that connects again gets what it has not had, whatever it says that it has.
func TestJournalGoesOnAfterTheLastEvent(t *testing.T) {
	t.Parallel()
	server, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := server.begin("run", "a run")
	a.run(func(_ context.Context, a *activity) error { a.say("phase", 1); return nil })
	for last, want := range map[string]string{"": "id: 0 id: 1", "0": "id: 1", "1": "", "-1": "id: 0 id: 1", strconv.Itoa(math.MaxInt): "id: 0 id: 1"} {
		request := httptest.NewRequestWithContext(t.Context(), "GET", "http://127.0.0.1/api/activities/"+a.ID+"/events", http.NoBody)
		request.Header.Set("Last-Event-ID", last)
		answer := httptest.NewRecorder()
		server.ServeHTTP(answer, request)
		var ids []string
		for line := range strings.Lines(answer.Body.String()) {
			if strings.HasPrefix(line, "id: ") {
				ids = append(ids, strings.TrimSpace(line))
			}
		}
		if got := strings.Join(ids, " "); answer.Code != http.StatusOK || got != want {
			t.Errorf("after %q: %d %q, want %q", last, answer.Code, got, want)
		}
	}
}

func TestLabsShareNoActivity(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 2 {
		server, err := New(Config{})
		if err != nil {
			t.Fatal(err)
		}
		a, _ := server.begin("run", "a run")
		if seen[a.ID] {
			t.Errorf("a second lab has an activity %s, too", a.ID)
		}
		seen[a.ID] = true
	}
}

// Another page may end a game while a move is made.
func TestGameEndsInTheMiddleOfAMove(t *testing.T) {
	t.Parallel()
	server, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	a, _ := server.begin("game", "a game")
	go a.run(func(ctx context.Context, a *activity) error {
		move := <-a.moves
		a.cancel()
		move.done <- fmt.Errorf("move %s: %w", move.move, ctx.Err())
		return ctx.Err()
	})
	answer := httptest.NewRecorder()
	server.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "POST", "http://127.0.0.1/api/games/"+a.ID+"/moves", strings.NewReader(`{"move":"1"}`)))
	if answer.Code != http.StatusConflict {
		t.Errorf("%d %s", answer.Code, answer.Body)
	}
}
