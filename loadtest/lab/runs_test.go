package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/internal/sandbox/sandboxtest/leaks"
	"flashsale/internal/sandbox/sandboxtest/tier"
	"flashsale/internal/strategy"
)

// lab is a served lab, which leaves nothing behind.
type lab struct {
	*testing.T
	url string
}

func serve(t *testing.T) lab { t.Helper(); return serveAll(t, 1)[0] }

// serveAll serves n labs, each of which does one thing at a time.
func serveAll(t *testing.T, n int) []lab {
	t.Helper()
	sandboxtest.NeedsDatabase(t)
	goroutines := goleak.IgnoreCurrent()
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	cfg := Config{API: sandboxtest.Build(t, "api"), EtcdProgram: []string{sandboxtest.Build(t, "etcdnode")}}
	labs, stops := make([]lab, n), make([]func(), n)
	for i := range labs {
		server, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		web := httptest.NewServer(server)
		labs[i] = lab{t, web.URL}
		stops[i] = func() {
			end, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			if err := server.Close(end); err != nil {
				t.Error(err)
			}
			web.Close()
		}
	}
	t.Cleanup(func() {
		for _, stop := range stops {
			stop()
		}
		http.DefaultClient.CloseIdleConnections()
		leaks.None(t, goroutines)
		left, err := os.ReadDir(temp)
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		if list := children(t); len(list) > 0 {
			t.Errorf("processes are left: %v", list)
		}
	})
	return labs
}

// children returns the processes that this one has started, by name.
func children(t *testing.T) map[int]string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	list := map[int]string{}
	for _, file := range files {
		stat, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// "pid (name) state parent ..."
		name, rest, _ := strings.Cut(string(stat[bytes.IndexByte(stat, '(')+1:]), ")")
		if strings.Fields(rest)[1] == strconv.Itoa(os.Getpid()) {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				t.Fatal(err)
			}
			list[pid] = name
		}
	}
	return list
}

// call sends a body, which is JSON already if it is a string.
func (l lab) call(method, path string, body any) (status int, text []byte, header http.Header) {
	l.Helper()
	in, err := json.Marshal(body)
	if err != nil {
		l.Fatal(err)
	}
	if text, ok := body.(string); ok {
		in = []byte(text)
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
	id       string
	events   []string
	chosen   Chosen
	phases   []Phase
	states   []State
	happened []Happened
	sides    []Side
	failed   string
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
	j.id = id
	ctx, cancel := context.WithTimeout(l.Context(), 4*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url+"/api/activities/"+id+"/events", http.NoBody)
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
			j.failed = parse[Problem](l, []byte(data)).Message
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

// play makes a run.
func (l lab) play(s Setting) journal { l.Helper(); return l.finish(l.start(s).ID, s) }

// finish reads the journal of a run to its end, and checks what holds for each of them.
func (l lab) finish(id string, s Setting) journal {
	l.Helper()
	j := l.read(id, nil)
	if len(j.events) == 0 || j.events[0] != "setting" || j.events[len(j.events)-1] != "end" {
		l.Fatalf("the run failed: %s; the journal is %v", j.failed, j.events)
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
		// A busy machine sends fewer orders, and may miss a sample: the state then repeats the one before.
		if side.Run.Offered > s.Buyers || side.StepsLost != 0 || len(side.Run.Samples) > len(mine) {
			l.Errorf("%d orders, %d steps lost, %d samples for %d states", side.Run.Offered, side.StepsLost, len(side.Run.Samples), len(mine))
		}
		sold := int64(0)
		for _, r := range last.Replicas {
			sold += r.Sold
		}
		// A replica that is killed, or whose commit has no answer in time, records less.
		if missing := side.Run.UnitsSold - sold; missing < 0 || missing > int64(side.Run.Errors+side.Run.Ambiguous) {
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
	if again := l.read(j.id, nil); again.text != j.text {
		t.Error("the journal is another one when it is read again")
	}
	l.checkSaved(&j)
}

// Each fault under the default strategy: the result is exact, and the journal says what
// happened. Beside them a textbook lock, which does not stop a holder that was paused past
// its TTL: whether that oversells is up to the moment, and the records must agree with the
// database. The runs wait most of their time, so all are made at once.
func TestFaults(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory")
	var settings []Setting
	for _, f := range faults[1:] {
		settings = append(settings, Setting{Strategy: "etcd", Replicas: 3, Units: 150, Rate: 50, Fault: f.name})
	}
	settings = append(settings, Setting{Strategy: "etcd-textbook", Replicas: 2, Units: 60, Rate: 30, Fault: "pause-seller"})
	labs, ids := serveAll(t, len(settings)), make([]string, len(settings))
	for i := range settings {
		s := &settings[i]
		f := faults[slices.IndexFunc(faults, func(f fault) bool { return f.name == s.Fault })]
		s.Fence, s.ThinkMS, s.Seed, s.Buyers = strategy.FenceClaim, 20, uint64(i+1), s.Rate*int(f.least().Seconds())
		ids[i] = labs[i].start(*s).ID
	}
	for i, s := range settings {
		t.Run(s.Strategy+" "+s.Fault, func(t *testing.T) {
			j := lab{t, labs[i].url}.finish(ids[i], s)
			side := j.sides[0]
			if oversold := side.Run.Verdict == strategy.Oversold; oversold != side.Race || oversold && (s.Strategy == "etcd" || !strings.Contains(side.Explains, "the lease of ")) {
				t.Errorf("%s, race %v: %s", side.Run.Verdict, side.Race, side.Explains)
			}
			if s.Strategy == "etcd" {
				if side.Run.Verdict != strategy.Exact {
					t.Errorf("%s: %+v", side.Run.Verdict, side.Run.Findings)
				}
				j.checkFault(t, s.Fault)
			}
		})
	}
}

// checkFault checks that a fault was made, shown and ended.
func (j *journal) checkFault(t *testing.T, name string) {
	t.Helper()
	made, healed := j.of("fault"), j.of("healed")
	lasts := faults[slices.IndexFunc(faults, func(f fault) bool { return f.name == name })].lasts
	if len(made) != 1 || len(healed) != 1 || made[0].Replica == "" || healed[0].MS-made[0].MS < lasts.Milliseconds() {
		t.Fatalf("faults %+v, healed %+v", made, healed)
	}
	for _, h := range j.happened[:min(20, len(j.happened))] {
		t.Logf("%5d ms %-9s %s", h.MS, h.Kind, h.Text)
	}
	want := map[string]string{"pause-seller": paused, "kill-seller": killed, "cut-etcd": cutOff, "cut-replicas": cutOff, "kill-etcd-leader": up}[name]
	if !slices.ContainsFunc(j.states, func(st State) bool {
		return slices.ContainsFunc(st.Replicas, func(r ReplicaState) bool { return r.Condition == want })
	}) {
		t.Errorf("no replica was ever %s", want)
	}
	if strings.HasSuffix(name, "-seller") && len(j.of("took-over")) == 0 {
		t.Error("no replica took over")
	}
}

// What cannot be run is refused at once, with every setting that is wrong.
func TestBadSettingsAreRefused(t *testing.T) {
	l := serve(t)
	for name, tt := range map[string]struct {
		body   string
		status int
		want   map[string]string // messages by field
	}{
		"no JSON":            {`{`, 400, map[string]string{"": "unexpected EOF"}},
		"unknown field":      {`{"repliacs":2}`, 400, map[string]string{"": "unknown field"}},
		"wrong type":         {`{"replicas":"two"}`, 400, map[string]string{"replicas": "must be a int"}},
		"unknown strategy":   {`{"strategy":"nope"}`, 422, map[string]string{"strategy": `unknown strategy "nope"`}},
		"unknown against":    {`{"against":"nope"}`, 422, map[string]string{"against": `unknown strategy "nope"`}},
		"unknown fence":      {`{"fence":"high"}`, 422, map[string]string{"fence": "off, write or claim"}},
		"unknown fault":      {`{"fault":"fire"}`, 422, map[string]string{"fault": "one of none, pause-seller"}},
		"several at once":    {`{"replicas":0,"units":0,"buyers":0,"rate":0,"think_ms":-1,"seed":4294967296}`, 422, map[string]string{"replicas": "from 1 to 5", "units": "from 1 to 100,000", "buyers": "from 1", "rate": "from 1", "think_ms": "from 0 to 2,000", "seed": "from 0"}},
		"too many":           {`{"replicas":6,"units":100001,"buyers":50001,"rate":5001,"think_ms":2001}`, 422, map[string]string{"replicas": "from 1", "units": "from", "buyers": "from", "rate": "from", "think_ms": "from"}},
		"too long":           {`{"buyers":1000,"rate":1}`, 422, map[string]string{"buyers": "at most 120"}},
		"too short to fail":  {`{"fault":"pause-seller"}`, 422, map[string]string{"buyers": "at least 900 with this fault"}},
		"no other replica":   {`{"fault":"kill-seller","replicas":1,"buyers":2000}`, 422, map[string]string{"replicas": "at least 2"}},
		"no etcd":            {`{"fault":"kill-etcd-leader","strategy":"etcd","against":"conditional","buyers":2000}`, 422, map[string]string{"against": "conditional does not use etcd"}},
		"nothing is sent":    {`{"fault":"cut-replicas","strategy":"etcd-textbook","against":"","buyers":2000}`, 422, map[string]string{"fault": "replicas send nothing to each other"}},
		"etcd of Kubernetes": {`{"fault":"cut-etcd","strategy":"etcd","against":"redis","buyers":2000}`, 422, map[string]string{"against": "redis does not use etcd"}},
	} {
		t.Run(name, func(t *testing.T) {
			status, text, _ := lab{t, l.url}.call("POST", "/api/runs", tt.body)
			p := parse[Problem](t, text)
			if p.Problems == nil {
				p.Problems = []Problem{p}
			}
			if status != tt.status || p.Field != p.Problems[0].Field || len(p.Problems) != len(tt.want) {
				t.Errorf("%d: %s", status, text)
			}
			for _, one := range p.Problems {
				if want, ok := tt.want[one.Field]; !ok || !strings.Contains(one.Message, want) {
					t.Errorf("%s: %q, want %q", one.Field, one.Message, want)
				}
			}
		})
	}
	if status, text, _ := l.call("GET", "/api/activities", nil); status != http.StatusOK || len(parse[[]About](t, text)) != 0 {
		t.Errorf("something was started: %s", text)
	}
}

func TestOptionsCanBeChosen(t *testing.T) {
	l := serve(t)
	_, text, _ := l.call("GET", "/api/options", nil)
	o := parse[Options](t, text)
	if len(o.Strategies) != len(strategy.All()) || len(o.Fences) != 3 || len(o.Faults) != 6 || o.Defaults != Defaults {
		t.Errorf("%s", text)
	}
	server, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range o.Faults {
		for _, name := range f.Strategies {
			s := Defaults
			s.Strategy, s.Against, s.Fault, s.Replicas, s.Buyers = name, "", f.Name, f.Replicas, max(200, int(f.Seconds)*s.Rate)
			if run, problems := server.plan(s); len(problems) > 0 && !strings.Contains(problems[0].Message, "not installed") || run.setting.Seed == 0 {
				t.Errorf("%s under %s: %v", f.Name, name, problems)
			}
		}
		if f.Shows == "" || len(f.Strategies) == 0 {
			t.Errorf("%+v", f)
		}
	}
}

// A run is stopped in the middle, at each phase: all of it ends within seconds, and the
// next one can begin. serve checks that nothing is left.
func TestStopEndsAllOfARun(t *testing.T) {
	l := serve(t)
	// Left alone, a run lasts for a minute or more.
	s := Setting{Strategy: "etcd", Against: "none", Fence: strategy.FenceClaim, Replicas: 2, Units: 500, Buyers: 6000, Rate: 100, ThinkMS: 5, Fault: noFault, Seed: 5}
	faulty := s
	faulty.Strategy, faulty.Against, faulty.Fault = "conditional", "", "pause-seller" // whose first moment is the fault
	for _, tt := range []struct {
		event string
		s     Setting
	}{{"phase", s}, {"state", s}, {"happened", faulty}} {
		about := l.start(tt.s)
		if status, text, _ := l.call("POST", "/api/runs", s); status != http.StatusConflict || parse[Problem](l, text).Running.ID != about.ID {
			t.Errorf("a second run: %d %s", status, text)
		}
		if status, _, _ := l.call("GET", "/api/activities/"+about.ID+"/page", nil); status != http.StatusConflict {
			t.Errorf("the page of a run that goes on: %d", status)
		}
		l.read(about.ID, func(event string) bool { return event == tt.event })
		began := time.Now()
		if status, text, _ := l.call("DELETE", "/api/activities/"+about.ID, nil); status != http.StatusNoContent {
			t.Errorf("%d %s", status, text)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("stopping took %s", took)
		} else {
			t.Logf("stopped at %s in %s", tt.event, took)
		}
		if j := l.read(about.ID, nil); j.events[len(j.events)-1] != "stopped" {
			t.Errorf("the journal is %v", j.events)
		}
		if list := children(t); len(list) > 0 {
			t.Errorf("processes are left: %v", list)
		}
	}
}

// A replica that dies by itself ends the run, with what its log says.
func TestDeadReplicaEndsTheRun(t *testing.T) {
	l := serve(t)
	about := l.start(Setting{Strategy: "conditional", Fence: strategy.FenceOff, Replicas: 2, Units: 500, Buyers: 2000, Rate: 100, Fault: noFault, Seed: 9})
	states := 0
	j := l.read(about.ID, func(event string) bool {
		if event == "state" {
			states++
		}
		if event == "state" && states == 5 {
			for pid, name := range children(t) {
				if name == "api" {
					if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
						t.Error(err)
					}
					break
				}
			}
		}
		return false
	})
	if !strings.Contains(j.failed, "ended by itself; its log ends") {
		t.Errorf("failed with %q, after %v", j.failed, j.events)
	}
}

// The goal is a diagram within 3 s of the end of 20,000 orders; its time is logged, as
// other tests run at the same time.
func TestDiagramOf20000Orders(t *testing.T) {
	tier.OnlyTestAll(t, "the laboratory")
	l := serve(t)
	j := l.play(Setting{Strategy: "none", Fence: strategy.FenceOff, Replicas: 2, Units: 100, Buyers: 20_000, Rate: 1250, Fault: noFault, Seed: 13})
	side := j.sides[0]
	t.Logf("the diagram of %d orders is there %d ms after the last answer; the journal has %d bytes", side.Run.Offered, side.DiagramMS, len(j.text))
	if !side.Race || side.Diagram == nil {
		t.Errorf("race %v, diagram %v", side.Race, side.Diagram)
	}
}
