package lab

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// A game by its API: a move that is not possible changes nothing, another game replaces it,
// and its journal has a state for each move.
func TestGameIsPlayedByItsAPI(t *testing.T) {
	l := serve(t)
	post := func(path string, body any, want int) []byte {
		t.Helper()
		status, text, _ := l.call("POST", path, body)
		if status != want {
			t.Fatalf("POST %s %v: %d %s, want %d", path, body, status, text, want)
		}
		return text
	}
	type start struct {
		Level   string   `json:"level"`
		Choices []string `json:"choices"`
	}
	post("/api/games", start{"moon", nil}, http.StatusUnprocessableEntity)
	post("/api/games", start{"none", []string{"3"}}, http.StatusUnprocessableEntity)
	post("/api/games", start{"none", slices.Repeat([]string{"1"}, maxMoves+1)}, http.StatusUnprocessableEntity)
	if list := fetch[[]Level](t, "GET", l.url+"/api/levels", http.StatusOK); len(list) != len(levels) || list[0].Goal == "" {
		t.Errorf("the levels are %+v", list)
	}

	first := parse[About](t, post("/api/games", start{"none", []string{"1", "2"}}, http.StatusCreated))
	ready := func(n int) func(said) bool {
		return func(m said) bool { return m.event == "state" && len(unmarshal[GameState](t, m).Choices) == n }
	}
	journalOf(t, l.url, first.ID, ready(2))
	moves := "/api/games/" + first.ID + "/moves"
	post(moves, map[string]string{"move": "p1"}, http.StatusUnprocessableEntity)
	post(moves, map[string]string{"move": "x"}, http.StatusUnprocessableEntity)
	post("/api/runs", Setting{}, http.StatusUnprocessableEntity) // and not a 500
	for _, m := range strings.Fields("1 1 2 2 1 2") {
		post(moves, map[string]string{"move": m}, http.StatusNoContent)
	}
	all := journalOf(t, l.url, first.ID, nil)
	if last := all[len(all)-1]; last.event != "end" {
		t.Fatalf("the last message is %s: %s", last.event, last.data)
	}
	end := unmarshal[GameState](t, all[len(all)-2])
	if !end.Won || len(end.Orders) != 2 || end.Available != 0 || end.Seq != 1 || strings.Join(end.Choices, " ") != "1 2 1 1 2 2 1 2" {
		t.Errorf("the end is %+v", end)
	}
	post(moves, map[string]string{"move": "1"}, http.StatusConflict)

	// A link whose choices cannot be made says so.
	broken := parse[About](t, post("/api/games", start{"none", []string{"1", "p1"}}, http.StatusCreated))
	all = journalOf(t, l.url, broken.ID, nil)
	if last := all[len(all)-1]; last.event != "failed" || !strings.Contains(string(last.data), "p1 is not possible now") {
		t.Errorf("the last message is %s: %s", last.event, last.data)
	}

	// A second game ends the one under way, while a replica is paused.
	paused := parse[About](t, post("/api/games", start{"textbook", []string{"1", "1", "p1"}}, http.StatusCreated))
	journalOf(t, l.url, paused.ID, ready(3))
	post("/api/games", start{"process", nil}, http.StatusCreated)
	all = journalOf(t, l.url, paused.ID, nil)
	if last := all[len(all)-1]; last.event != "stopped" {
		t.Errorf("the last message is %s: %s", last.event, last.data)
	}
	// serve checks that nothing is left of the last game, which is under way.
}
