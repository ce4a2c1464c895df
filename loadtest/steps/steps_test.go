package steps_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"flashsale/internal/record"
	"flashsale/loadtest/steps"
)

// write is a step that moved the available units of sku "lamp" from before to after.
func write(kind record.Kind, replica, customer string, seq uint64, before, after int64) record.Step {
	return record.Step{Kind: kind, Replica: replica, SKU: "lamp", Customer: customer, Key: "k", Order: customer + "'s order", Seq: seq, Before: &before, After: &after}
}

func read(replica, customer string, seq uint64, available int64) record.Step {
	return record.Step{Kind: record.Read, Replica: replica, SKU: "lamp", Customer: customer, Key: "k", Seq: seq, Before: &available}
}

// lines describes steps in a few words each: "A read 1", "B wrote 0".
func lines(all []record.Step) (text []string) {
	for _, s := range all {
		line := fmt.Sprint(s.Replica, " ", s.Kind)
		switch {
		case s.After != nil:
			line += fmt.Sprint(" ", *s.After)
		case s.Before != nil:
			line += fmt.Sprint(" ", *s.Before)
		}
		text = append(text, line)
	}
	return text
}

func TestInterleavingIsOfTheOrdersThatSoldOneUnit(t *testing.T) {
	const W, C = record.Wrote, record.Committed
	for _, test := range []struct {
		name string
		all  []record.Step
		want string
	}{
		{"lost update", []record.Step{
			read("A", "zoe", 0, 2), write(W, "A", "zoe", 1, 2, 1), write(C, "A", "zoe", 1, 2, 1),
			read("A", "ann", 1, 1), read("B", "ben", 1, 1), write(W, "A", "ann", 2, 1, 0), write(C, "A", "ann", 2, 1, 0),
			write(W, "B", "ben", 2, 1, 0), write(C, "B", "ben", 2, 1, 0), write(C, "B", "cleo", 2, 1, 0),
		}, "A read 1, B read 1, A wrote 0, A committed 0, B wrote 0, B committed 0"},
		{"a read whose answer took its time", []record.Step{
			read("A", "ann", 1, 1), write(C, "A", "ann", 2, 1, 0), read("B", "ben", 1, 1), write(C, "B", "ben", 2, 1, 0),
		}, "A read 1, B read 1, A committed 0, B committed 0"},
		{"a stale write that was recorded after what it led to", []record.Step{
			read("B", "ben", 0, 3), write(C, "A", "ann", 1, 3, 2), write(C, "A", "zoe", 2, 2, 1), write(C, "A", "cleo", 2, 2, 1), write(C, "B", "ben", 1, 3, 2),
		}, "B read 3, A committed 2, B committed 2"},
		{"a batch", []record.Step{write(C, "A", "ann", 2, 5, 3), write(C, "A", "ben", 2, 3, 2)}, ""},
		{"a unit that came back", []record.Step{write(C, "A", "ann", 2, 1, 0), write(C, "A", "ben", 4, 1, 0)}, ""},
		{"a commit that was recorded again", []record.Step{write(C, "A", "ann", 2, 1, 0), write(C, "A", "ann", 2, 1, 0)}, ""},
		{"a write that was rolled back", []record.Step{write(C, "A", "ann", 2, 1, 0), write(record.Rejected, "B", "ben", 2, 1, 0)}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := strings.Join(lines(steps.Interleaving(test.all, "lamp")), ", "); got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if got := steps.Interleaving(test.all, "vase"); got != nil {
				t.Errorf("of another SKU: %v", lines(got))
			}
		})
	}
}

func TestLastUnitPrefersARivalAtAnotherReplica(t *testing.T) {
	step := func(kind record.Kind, replica, customer string) record.Step {
		return record.Step{Kind: kind, Replica: replica, SKU: "lamp", Customer: customer, Key: "k"}
	}
	locked := record.Step{Kind: record.Locked, Replica: "A", SKU: "lamp", Token: 7}
	sold := write(record.Committed, "A", "ann", 2, 1, 0)
	sold.Token = 7
	all := []record.Step{
		locked, step(record.Arrived, "A", "ann"), step(record.Arrived, "A", "dan"), step(record.Arrived, "B", "ben"), sold,
		step(record.Refused, "A", "dan"), step(record.Arrived, "B", "eve"), step(record.Refused, "A", "eve"),
		step(record.Refused, "A", "ben"), step(record.Answered, "B", "ben"), {Kind: record.Unlocked, Replica: "A", SKU: "lamp", Token: 7},
	}
	const want = "A locked, A arrived, B arrived, A committed 0, A refused, B answered"
	if got := strings.Join(lines(steps.LastUnit(all, "lamp")), ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := steps.LastUnit(all[:5], "lamp"); got != nil {
		t.Errorf("without a refusal: %v", lines(got))
	}
}

// B read what A had taken before A had noted that it took it.
func TestLastUnitFindsARefusalThatWasRecordedFirst(t *testing.T) {
	read := func(customer, replica string, before int64) record.Step {
		return record.Step{Kind: record.Read, Replica: replica, SKU: "lamp", Customer: customer, Key: "k", Before: &before}
	}
	all := []record.Step{
		read("ben", "B", 1), read("ann", "A", 1), read("ben", "B", 0), {Kind: record.Refused, Replica: "B", SKU: "lamp", Customer: "ben", Key: "k"},
		write(record.Committed, "A", "ann", 2, 1, 0),
	}
	const want = "B read 1, A read 1, B read 0, B refused, A committed 0"
	if got := strings.Join(lines(steps.LastUnit(all, "lamp")), ", "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func open(t *testing.T, path, replica, addr string) *record.Recorder {
	t.Helper()
	r, err := record.Open(path, record.Step{Replica: replica, Addr: addr}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A replica is killed in the middle of a line, and starts again: the steps of both
// processes are read, in order, and the torn one is counted.
func TestTornLineIsCounted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	first := open(t, path, "A", "")
	first.Add(record.Step{Kind: record.Arrived})
	if err := first.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text[:len(text)-9], 0o600); err != nil {
		t.Fatal(err)
	}
	second := open(t, path, "A", "")
	if err := second.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, lost, err := steps.ReadAll(path)
	if got, want := strings.Join(lines(all), ", "), "A started, A arrived, A started, A stopped"; err != nil || got != want || lost != 1 {
		t.Errorf("got %s, %d lost, %v; want %s and 1", got, lost, err, want)
	}
}

// Half a line is not read before its other half is there.
func TestFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	f, err := steps.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	line, err := json.Marshal(record.Step{Kind: record.Arrived, Replica: "A"})
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []struct {
		text string
		want int
	}{{string(line[:7]), 0}, {string(line[7:]), 0}, {"\n" + string(line) + "\n" + string(line[:3]), 2}, {string(line[3:]) + "\n", 1}} {
		if _, err := out.WriteString(part.text); err != nil {
			t.Fatal(err)
		}
		if got, err := f.Read(); err != nil || len(got) != part.want {
			t.Errorf("after %q: %d steps, %v; want %d", part.text, len(got), err, part.want)
		}
	}
}

// Steps are ordered by a clock that nobody sets, and the address of a replica becomes its
// name.
func TestMergeOrdersByTheMonotonicClock(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	file := func(replica, addr string, all ...record.Step) string {
		path := filepath.Join(t.TempDir(), replica)
		out, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		for _, s := range append([]record.Step{{Kind: record.Started, Wall: began, Addr: addr}}, all...) {
			s.Replica = replica
			if err := json.NewEncoder(out).Encode(s); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	back := began.Add(-time.Hour) // the host's clock was set
	all, _, err := steps.ReadAll(
		file("A", "10.0.0.1:7", record.Step{Kind: record.Answered, Wall: back, Mono: 3}, record.Step{Kind: record.Arrived, Wall: began, Mono: 1}),
		file("B", "", record.Step{Kind: record.Forwarded, Wall: began, Mono: 2, To: "10.0.0.1:7"}))
	want := []string{"A started", "B started", "A arrived", "B forwarded", "A answered"}
	if got := lines(all); err != nil || !cmp.Equal(got, want) {
		t.Fatalf("got %v, %v; want %v", got, err, want)
	}
	if i := slices.IndexFunc(all, func(s record.Step) bool { return s.Kind == record.Forwarded }); all[i].To != "A" {
		t.Errorf("forwarded to %q, want A", all[i].To)
	}
}
