package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"flashsale/internal/record"
)

// recorded are steps of real replicas, as the tests of loadtest/steps have recorded them.
func recorded(t *testing.T, name string) (some []record.Step) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var s record.Step
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatal(err)
		}
		some = append(some, s)
	}
	return some
}

// lines are the steps of a diagram as "order from > to kind: text", with ! for Wrong.
func lines(d *Diagram) (all []string) {
	for _, s := range d.Steps {
		line := fmt.Sprintf("%d %s > %s %s: %s", s.Order, d.Lanes[s.Lane].Name, d.Lanes[s.To].Name, s.Kind, s.Text)
		if s.Wrong {
			line += " !"
		}
		all = append(all, line)
	}
	return all
}

func lanes(d *Diagram) string {
	var names []string
	for _, l := range d.Lanes {
		names = append(names, l.Kind+" "+l.Name)
	}
	return strings.Join(names, ", ")
}

func TestDiagramOfRecords(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, lanes string
		want        []string
	}{
		{"none", "buyer ann, buyer ben, replica A, replica B, database MySQL", []string{
			"1 ann > A order: orders 1 unit",
			"2 ben > B order: orders 1 unit",
			"1 A > MySQL read: reads: 1 unit left !",
			"2 B > MySQL read: reads: 1 unit left !",
			"1 A > MySQL write: writes: 0 units left !",
			"2 B > MySQL write: writes: 0 units left !",
			"2 B > MySQL commit: commits: 0 units left",
			"1 A > MySQL commit: commits: 0 units left",
			"2 B > ben answer: answers: placed",
			"1 A > ann answer: answers: placed",
		}},
		{"process", "buyer ben, buyer ann, replica A, replica B, database MySQL, lock mutex of A, lock mutex of B", []string{
			"1 ben > B order: orders 1 unit",
			"2 ann > A order: orders 1 unit",
			"2 A > mutex of A lock: asks for the lock",
			"2 mutex of A > A lock: grants the lock",
			"1 B > mutex of B lock: asks for the lock",
			"1 mutex of B > B lock: grants the lock",
			"2 A > MySQL read: reads: 1 unit left !",
			"1 B > MySQL read: reads: 1 unit left !",
			"2 A > MySQL write: writes: 0 units left !",
			"1 B > MySQL write: writes: 0 units left !",
			"2 A > MySQL commit: commits: 0 units left",
			"2 A > mutex of A lock: releases the lock",
			"2 A > ann answer: answers: placed",
			"1 B > MySQL commit: commits: 0 units left",
			"1 B > mutex of B lock: releases the lock",
			"1 B > ben answer: answers: placed",
		}},
		{"version", "buyer ann, buyer ben, replica A, replica B, database MySQL", []string{
			"1 ann > A order: orders 1 unit",
			"2 ben > B order: orders 1 unit",
			"1 A > MySQL read: reads: 1 unit left",
			"2 B > MySQL read: reads: 1 unit left",
			"1 A > MySQL write: writes: 0 units left",
			"2 MySQL > B refuse: no effect: the row has changed, or has too few units",
			"1 A > MySQL commit: commits: 0 units left",
			"1 A > ann answer: answers: placed",
			"2 B > MySQL read: reads: 0 units left",
			"2 B > B refuse: refuses: sold out",
			"2 B > ben answer: answers: sold out",
		}},
		{"etcd-cas", "buyer ben, buyer ann, replica A, replica B, database MySQL, database etcd", []string{
			"1 ben > B order: orders 1 unit",
			"2 ann > A order: orders 1 unit",
			"2 A > MySQL read: reads: 1 unit left",
			"2 A > etcd read: reads: 1 unit left",
			"2 A > etcd write: takes 1 unit: 0 units left",
			"1 B > MySQL read: reads: 1 unit left",
			"1 B > etcd read: reads: 0 units left",
			"1 B > B refuse: refuses: sold out",
			"1 B > ben answer: answers: sold out",
			"2 A > MySQL write: writes: 0 units left",
			"2 A > MySQL commit: commits: 0 units left",
			"2 A > ann answer: answers: placed",
		}},
		{"etcd", "buyer ann, buyer ben, replica A, replica B, database MySQL, lock etcd", []string{
			"1 ann > A order: orders 1 unit",
			"2 ben > B order: orders 1 unit",
			"0 etcd > B lock: grants the lock, token 9",
			"0 B > MySQL lock: claims with token 9, reads: 1 unit left",
			"1 A > B forward: forwards the order",
			"2 B > MySQL commit: commits: 0 units left",
			"2 B > ben answer: answers: placed",
			"1 B > B refuse: refuses: sold out",
			"1 A > ann answer: answers: sold out",
		}},
		{"take-over", "buyer ann, buyer ben, buyer cleo, buyer dan, replica A, replica B, database MySQL, lock etcd", []string{
			"1 ann > A order: orders 1 unit",
			"0 A > etcd lock: asks for the lock",
			"0 etcd > A lock: grants the lock, token 3",
			"0 A > MySQL lock: claims with token 3, reads: 5 units left",
			"1 A > MySQL commit: commits: 4 units left",
			"1 A > ann answer: answers: placed",
			"2 ben > A order: orders 1 unit",
			"2 A > MySQL commit: commits: 3 units left",
			"2 A > ben answer: answers: placed",
			"3 cleo > B order: orders 1 unit",
			"0 B > etcd lock: asks for the lock",
			"0 etcd > B refuse: no lock: lock is held by another",
			"3 B > A forward: forwards the order",
			"0 B > etcd lock: asks for the lock",
			"0 etcd > B lock: grants the lock, token 4",
			"0 B > etcd fault: takes over the lock of A: it is dead",
			"0 B > MySQL lock: claims with token 4, reads: 3 units left",
			"3 B > MySQL commit: commits: 2 units left",
			"3 B > cleo answer: answers: placed",
			"4 dan > B order: orders 1 unit",
			"4 B > MySQL commit: commits: 1 unit left",
			"4 B > dan answer: answers: placed",
			"0 B > etcd lock: releases the lock",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := diagramOf(recorded(t, test.name))
			if diff := cmp.Diff(test.want, lines(d)); diff != "" {
				t.Error(diff)
			}
			if got := lanes(d); got != test.lanes {
				t.Errorf("got  %s\nwant %s", got, test.lanes)
			}
		})
	}
}

func TestDetailIsWhatTheRecordSays(t *testing.T) {
	t.Parallel()
	step := diagramOf(recorded(t, "none")).Steps[4]
	want := []string{
		`step "wrote" of A, 2.537792 s after its start`, "available 0, before 1", "seq 1",
		"order 01a22566-5829-7428-b0b5-4c4756a0a761", "customer ann, key ann's key",
	}
	if diff := cmp.Diff(want, step.Detail); diff != "" || step.US != 2_001_902 {
		t.Errorf("%d us\n%s", step.US, diff)
	}
	for _, s := range diagramOf(recorded(t, "etcd")).Steps {
		if s.Kind == "commit" && !slices.Contains(s.Detail, "token 9") {
			t.Errorf("no token in %q", s.Detail)
		}
	}
}

// Every kind of step of a replica is drawn, or is about its file.
func TestEachKindIsDrawn(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("../../internal/record/step.go")
	if err != nil {
		t.Fatal(err)
	}
	kinds := regexp.MustCompile(`Kind = "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1)
	if len(kinds) < 20 {
		t.Fatalf("step.go has %d kinds, want at least 20", len(kinds))
	}
	for _, kind := range kinds {
		if _, ok := drawn[record.Kind(kind[1])]; !ok && kind[1] != "started" && kind[1] != "stopped" {
			t.Errorf("%s is not drawn", kind[1])
		}
	}
}

// A batch sells different units of one version: nothing is wrong.
func TestOnlyUnitsThatWereSoldTwiceAreWrong(t *testing.T) {
	t.Parallel()
	some := recorded(t, "none")
	for i, s := range some {
		if s.Customer == "ben" && s.After != nil {
			some[i].Before, some[i].After = new(int64(2)), new(int64(1))
		}
	}
	for _, line := range lines(diagramOf(some)) {
		if strings.HasSuffix(line, "!") {
			t.Errorf("wrong: %s", line)
		}
	}
}

func TestLateRecordIsSaidToBeLate(t *testing.T) {
	t.Parallel()
	some := recorded(t, "none")
	some[3].Wall = some[len(some)-1].Wall
	d := diagramOf(some)
	for i, s := range d.Steps {
		if late := strings.Contains(strings.Join(s.Detail, "\n"), "recorded late"); late != (i == 2) {
			t.Errorf("step %d: %q", i, s.Detail)
		}
	}
}

func TestNothingToDraw(t *testing.T) {
	t.Parallel()
	if d := diagramOf([]record.Step{{Kind: record.Started, Strategy: "none"}}); d != nil {
		t.Errorf("got %v", lines(d))
	}
}
