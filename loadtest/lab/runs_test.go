package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/strategy"
)

// lab is a served lab, which leaves nothing behind.
type lab struct {
	*testing.T
	url string
}

func serve(t *testing.T) lab {
	t.Helper()
	sandboxtest.NeedsDatabase(t)
	goroutines := goleak.IgnoreCurrent()
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	server, err := New(Config{API: sandboxtest.Build(t, "api"), EtcdProgram: []string{sandboxtest.Build(t, "etcdnode")}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(server)
	t.Cleanup(func() {
		end, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := server.Close(end); err != nil {
			t.Error(err)
		}
		web.Close()
		http.DefaultClient.CloseIdleConnections()
		goleak.VerifyNone(t, goroutines)
		left, err := os.ReadDir(temp)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if list := children(t); len(list) > 0 {
			t.Errorf("processes are left: %v", list)
		}
	})
	return lab{t, web.URL}
}

// children lists the processes that this one has started.
func children(t *testing.T) (list []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if fields[1] == strconv.Itoa(os.Getpid()) {
			list = append(list, string(stat[:bytes.LastIndexByte(stat, ')')+1]))
		}
	}
	return list
}

func (l lab) call(method, path string, body any) (status int, text []byte, header http.Header) {
	l.Helper()
	in, err := json.Marshal(body)
	if err != nil {
		l.Fatal(err)
	}
	request, err := http.NewRequestWithContext(l.Context(), method, l.url+path, bytes.NewReader(in))
	if err != nil {
		l.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		l.Fatal(err)
	}
	defer response.Body.Close()
	if text, err = io.ReadAll(response.Body); err != nil {
		l.Fatal(err)
	}
	return response.StatusCode, text, response.Header
}

func parse[T any](t testing.TB, text []byte) (v T) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return v
}

// journal is what a page knows of a run.
type journal struct {
	events   []string
	chosen   Chosen
	phases   []Phase
	states   []State
	happened []Happened
	sides    []Side
	text     string
}

func (l lab) start(s Setting) About {
	l.Helper()
	status, text, _ := l.call("POST", "/api/runs", s)
	if status != http.StatusCreated {
		l.Fatalf("%d: %s", status, text)
	}
	return parse[About](l, text)
}

// read reads a journal to its end; until, if not nil, may end it earlier.
func (l lab) read(id string, until func(event string) bool) (j journal) {
	l.Helper()
	ctx, cancel := context.WithTimeout(l.Context(), 4*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, "GET", l.url+"/api/activities/"+id+"/events", http.NoBody)
	if err != nil {
		l.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		l.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 16<<20)
	event := ""
	for lines.Scan() {
		j.text += lines.Text() + "\n"
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			event = name
			continue
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		j.events = append(j.events, event)
		switch event {
		case "setting":
			j.chosen = parse[Chosen](l, []byte(data))
		case "phase":
			j.phases = append(j.phases, parse[Phase](l, []byte(data)))
		case "state":
			j.states = append(j.states, parse[State](l, []byte(data)))
		case "happened":
			j.happened = append(j.happened, parse[Happened](l, []byte(data)))
		case "side":
			j.sides = append(j.sides, parse[Side](l, []byte(data)))
		case "failed":
			l.Errorf("the run failed: %s", parse[Problem](l, []byte(data)).Message)
		}
		if until != nil && until(event) {
			return j
		}
	}
	if err := lines.Err(); err != nil {
		l.Fatal(err)
	}
	return j
}

// play makes a run, and checks what holds for each of them.
func (l lab) play(s Setting) journal {
	l.Helper()
	j := l.read(l.start(s).ID, nil)
	if len(j.events) == 0 || j.events[0] != "setting" || j.events[len(j.events)-1] != "end" {
		l.Fatalf("the journal is %v", j.events)
	}
	sides := 1
	if s.Against != "" {
		sides = 2
	}
	if len(j.sides) != sides {
		l.Fatalf("%d results, want %d", len(j.sides), sides)
	}
	for i, side := range j.sides {
		l.Logf("%s: %s\n%s\ndiagram after %d ms, %d steps", side.Strategy, side.Sentence, side.Explains, side.DiagramMS, len(side.Diagram.Steps))
		mine := slices.DeleteFunc(slices.Clone(j.states), func(st State) bool { return st.Side != i })
		if len(mine) < 3 {
			l.Errorf("%d states", len(mine))
			continue
		}
		first, last := mine[0], mine[len(mine)-1]
		if first.Available != s.Units || first.Sold != 0 || len(first.Replicas) != s.Replicas {
			l.Errorf("the first state is %+v", first)
		}
		if last.Sold != side.Run.UnitsSold || last.Available != side.Run.Available || last.Oversold != side.Run.Oversold || last.Accepted+last.Refused+last.Errors != int64(side.Run.Offered) {
			l.Errorf("the last state is %+v, the result %+v", last, side.Run.Findings)
		}
		if side.Run.Offered != s.Buyers || side.StepsLost != 0 || len(side.Run.Samples) != len(mine) {
			l.Errorf("%d orders, %d steps lost, %d samples for %d states", side.Run.Offered, side.StepsLost, len(side.Run.Samples), len(mine))
		}
		sold := int64(0)
		for _, r := range last.Replicas {
			sold += r.Sold
		}
		if sold != side.Run.UnitsSold && s.Fault != "kill-seller" { // its last steps may be lost
			l.Errorf("the lanes sold %d, the database has %d", sold, side.Run.UnitsSold)
		}
	}
	return j
}

func (j *journal) of(kind string) (some []Happened) {
	return slices.DeleteFunc(slices.Clone(j.happened), func(h Happened) bool { return h.Kind != kind })
}

// The run that the page offers first shows what the lab is for.
func TestDefaultsOversellAndTheGuardHolds(t *testing.T) {
	l := serve(t)
	s := Defaults
	s.Seed = 7
	j := l.play(s)
	left, right := j.sides[0], j.sides[1]
	if left.Run.Verdict != strategy.Oversold || !left.Race || left.Diagram == nil || !strings.Contains(left.Explains, "so the same unit was sold twice") {
		t.Errorf("left: %s, race %v, %q", left.Run.Verdict, left.Race, left.Explains)
	}
	if right.Run.Verdict != strategy.Exact || right.Race || right.Diagram == nil || !strings.Contains(right.Explains, "No unit was sold twice") {
		t.Errorf("right: %s, race %v, %q", right.Run.Verdict, right.Race, right.Explains)
	}
	if j.chosen.Setting != s || j.chosen.Defaults != Defaults {
		t.Errorf("got %+v", j.chosen)
	}
	if sellers := j.of("seller"); len(sellers) == 0 || sellers[0].Side != 1 || sellers[0].Token == 0 {
		t.Errorf("sellers %+v", sellers)
	}
	forwarded := int64(0)
	for _, r := range j.states[len(j.states)-1].Replicas {
		for to, n := range r.Forwarded {
			if !strings.HasPrefix(to, "replica-") {
				t.Errorf("forwarded to %q", to)
			}
			forwarded += n
		}
	}
	if forwarded == 0 {
		t.Error("no order was forwarded")
	}
	if again := l.read("1", nil); again.text != j.text {
		t.Error("the journal is another one when it is read again")
	}
}

// Each fault under the default strategy: the result is exact, and the journal says what
// happened.
func TestFaultsDoNotOversellUnderEtcd(t *testing.T) {
	for _, f := range faults[1:] {
		t.Run(f.name, func(t *testing.T) {
			l := serve(t)
			j := l.play(Setting{Strategy: "etcd", Fence: strategy.FenceClaim, Replicas: 3, Units: 300, Rate: 100, Buyers: 100 * int(f.least().Seconds()), ThinkMS: 5, Fault: f.name, Seed: 11})
			if v := j.sides[0].Run.Verdict; v != strategy.Exact || j.sides[0].Race {
				t.Errorf("%s: %+v", v, j.sides[0].Run.Findings)
			}
			fault, healed := j.of("fault"), j.of("healed")
			if len(fault) != 1 || len(healed) != 1 || fault[0].Replica == "" || healed[0].MS-fault[0].MS < f.lasts.Milliseconds() || healed[0].MS > int64(float64(len(j.states))*1000) {
				t.Fatalf("faults %+v, healed %+v", fault, healed)
			}
			for _, h := range j.happened {
				t.Logf("%5d ms %-9s %s", h.MS, h.Kind, h.Text)
			}
			conditions := map[string]bool{}
			for _, st := range j.states {
				for _, r := range st.Replicas {
					conditions[r.Condition] = true
				}
			}
			want := map[string]string{"pause-seller": paused, "kill-seller": killed, "cut-etcd": cutOff, "cut-replicas": cutOff, "kill-etcd-leader": up}[f.name]
			if !conditions[want] {
				t.Errorf("no replica was %s: %v", want, conditions)
			}
			if strings.HasSuffix(f.name, "-seller") && len(j.of("took-over")) == 0 {
				t.Error("no replica took over")
			}
		})
	}
}

// A textbook lock does not stop a holder that was paused past its TTL. Whether it oversells
// is up to the moment; the records must agree with the database.
func TestPausedTextbookHolder(t *testing.T) {
	l := serve(t)
	j := l.play(Setting{Strategy: "etcd-textbook", Fence: strategy.FenceOff, Replicas: 2, Units: 60, Rate: 30, Buyers: 270, ThinkMS: 30, Fault: "pause-seller", Seed: 3})
	side := j.sides[0]
	if oversold := side.Run.Verdict == strategy.Oversold; oversold != side.Race || oversold && !strings.Contains(side.Explains, "longer than the TTL") {
		t.Errorf("%s, race %v: %s", side.Run.Verdict, side.Race, side.Explains)
	}
}
