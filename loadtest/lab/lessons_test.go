package lab

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
	"flashsale/loadtest/lesson"
	"flashsale/loadtest/lesson/testbed"
)

// lessons serves a lab whose lessons can be played.
func lessons(t *testing.T) *httptest.Server {
	t.Helper()
	s, err := New(Config{EtcdProgram: []string{sandboxtest.Build(t, "etcdnode")}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	t.Cleanup(func() {
		if err := s.Close(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return server
}

// request reads the JSON of an answer, which must have that status.
func fetch[T any](t *testing.T, method, url string, want int) (body T) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	if err == nil && len(text) > 0 {
		err = json.Unmarshal(text, &body)
	}
	if err != nil || response.StatusCode != want {
		t.Fatalf("%s %s: %d %s, %v", method, url, response.StatusCode, text, err)
	}
	return body
}

// said is a message of a journal.
type said struct {
	event string
	data  []byte
}

func unmarshal[T any](t *testing.T, m said) (v T) {
	t.Helper()
	if err := json.Unmarshal(m.data, &v); err != nil {
		t.Fatalf("%s: %s: %v", m.event, m.data, err)
	}
	return v
}

// journal reads an activity to its end, or until enough has been said.
func journalOf(t *testing.T, url, id string, enough func(said) bool) (all []said) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/api/activities/"+id+"/events", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	in := bufio.NewScanner(response.Body)
	in.Buffer(nil, 1<<20)
	var m said
	for in.Scan() {
		if event, ok := strings.CutPrefix(in.Text(), "event: "); ok {
			m.event = event
		}
		if data, ok := bytes.CutPrefix(in.Bytes(), []byte("data: ")); ok {
			m.data = bytes.Clone(data)
			if all = append(all, m); enough != nil && enough(m) {
				return all
			}
		}
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// A lesson in the page is the command's: the same variants, steps and results.
func TestLessonsArePlayed(t *testing.T) {
	t.Parallel()
	server := lessons(t)
	for _, test := range []struct {
		name, lanes string
		steps       []string // of the first variant
	}{
		{"no-lock", "buyer A, buyer B, database MySQL", []string{
			"1 A > MySQL read: reads the stock: 1 unit", "2 B > MySQL read: reads the stock: 1 unit",
			"1 A > MySQL write: sells 1 unit and writes the stock: 0", "2 B > MySQL write: sells 1 unit and writes the stock: 0",
		}},
		{"one-session-two-goroutines", "buyer A, buyer B, lock etcd, database MySQL", []string{
			"1 A > etcd lock: mutex.Lock: acquires the lock", "1 A > MySQL read: reads the stock: 1 unit",
			"2 B > etcd lock: mutex.Lock with the same session: acquires the lock", "2 B > MySQL read: reads the stock: 1 unit",
			"1 A > MySQL write: sells 1 unit and writes the stock: 0", "2 B > MySQL write: sells 1 unit and writes the stock: 0",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l, err := lesson.Find(test.name)
			if err != nil {
				t.Fatal(err)
			}
			about := fetch[About](t, http.MethodPost, server.URL+"/api/lessons/"+test.name+"/plays", http.StatusCreated)
			all := journalOf(t, server.URL, about.ID, nil)
			if last := all[len(all)-1]; last.event != "end" {
				t.Fatalf("the lesson ended with %s: %s", last.event, last.data)
			}
			var diagrams []*Diagram
			var results []VariantResult
			for _, m := range all {
				switch m.event {
				case "variant":
					v := unmarshal[VariantStarted](t, m)
					if v.Variant != len(diagrams) || v.Breaks != l.Variants[v.Variant].Breaks || v.Title != l.Variants[v.Variant].Title {
						t.Errorf("variant %d is %+v", len(diagrams), v)
					}
					diagrams = append(diagrams, nil)
				case "diagram":
					d := unmarshal[VariantDiagram](t, m)
					if before := diagrams[d.Variant]; before != nil && len(d.Diagram.Steps) != len(before.Steps)+1 {
						t.Errorf("%d steps after %d", len(d.Diagram.Steps), len(before.Steps))
					}
					diagrams[d.Variant] = d.Diagram
				case "result":
					results = append(results, unmarshal[VariantResult](t, m))
				}
			}
			if len(diagrams) != len(l.Variants) || len(results) != len(l.Variants) {
				t.Fatalf("%d diagrams and %d results of %d variants", len(diagrams), len(results), len(l.Variants))
			}
			for i, r := range results {
				if r.Variant != i || !r.Expected || r.OK == l.Variants[i].Breaks || len(r.Audit) == 0 || !strings.HasSuffix(r.Text, "as expected") {
					t.Errorf("the result is %+v", r)
				}
			}
			if got := lines(diagrams[0]); !slices.Equal(got, test.steps) {
				t.Errorf("got  %q\nwant %q", got, test.steps)
			}
			if got := lanes(diagrams[0]); got != test.lanes {
				t.Errorf("the lanes are %s, want %s", got, test.lanes)
			}
			if again := journalOf(t, server.URL, about.ID, nil); len(again) != len(all) {
				t.Errorf("the journal has %d messages, and %d when it is read again", len(all), len(again))
			}
		})
	}
}

func TestLessonIsStopped(t *testing.T) {
	t.Parallel()
	server := lessons(t)
	about := fetch[About](t, http.MethodPost, server.URL+"/api/lessons/no-lock/plays", http.StatusCreated)
	if busy := fetch[Problem](t, http.MethodPost, server.URL+"/api/lessons/no-lock/plays", http.StatusConflict); busy.Running == nil || *busy.Running != about {
		t.Errorf("a second lesson at the same time: %+v", busy)
	}
	journalOf(t, server.URL, about.ID, func(m said) bool { return m.event == "variant" })
	began := time.Now()
	fetch[any](t, http.MethodDelete, server.URL+"/api/activities/"+about.ID, http.StatusNoContent)
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	if all := journalOf(t, server.URL, about.ID, nil); all[len(all)-1].event != "stopped" {
		t.Errorf("the last message is %s", all[len(all)-1].event)
	}
}

func TestLessonsAreListedWithTheirTexts(t *testing.T) {
	t.Parallel()
	server := lessons(t)
	list := fetch[[]LessonAbout](t, http.MethodGet, server.URL+"/api/lessons", http.StatusOK)
	if len(list) != len(lesson.All()) {
		t.Fatalf("%d lessons, want %d", len(list), len(lesson.All()))
	}
	for _, about := range list {
		page := fetch[LessonPage](t, http.MethodGet, server.URL+"/api/lessons/"+about.Name, http.StatusOK)
		var titles []string
		for _, s := range page.Sections {
			titles = append(titles, s.Title)
			if strings.TrimSpace(s.HTML) == "" {
				t.Errorf("%s: the section %q is empty", about.Name, s.Title)
			}
			for _, part := range []string{`href="http`, ".md", "<script", "loadtest lesson"} {
				if strings.Contains(s.HTML, part) {
					t.Errorf("%s: %q has %s", about.Name, s.Title, part)
				}
			}
		}
		if len(titles) != 5 || titles[0] != "" || titles[1] != "The picture" || titles[2] != "Why" || !strings.Contains(strings.ToLower(titles[3]), "cure") ||
			titles[4] != "In code" {
			t.Errorf("%s has the sections %q", about.Name, titles)
		}
		if len(page.Questions) < 3 || page.Shows == "" {
			t.Errorf("%s has %d questions, and shows %q", about.Name, len(page.Questions), page.Shows)
		}
		for i, q := range page.Questions {
			if !strings.Contains(q.HTML, "?") || q.Answer == "" || strings.Contains(q.HTML+q.Answer, "raw HTML") || strings.Contains(q.HTML+q.Answer, "Answer") {
				t.Errorf("%s: question %d is %q, its answer %q", about.Name, i+1, q.HTML, q.Answer)
			}
		}
	}
	page := fetch[LessonPage](t, http.MethodGet, server.URL+"/api/lessons/one-process-lock", http.StatusOK)
	if !strings.Contains(page.Sections[2].HTML+page.Sections[3].HTML, `<a href="#paused-holder">paused-holder</a>`) {
		t.Errorf("the link to another lesson does not work in the page: %s", page.Sections[3].HTML)
	}
	if page := fetch[LessonPage](t, http.MethodGet, server.URL+"/api/lessons/paused-holder", http.StatusOK); !strings.Contains(page.Sections[2].HTML, "<table>") {
		t.Errorf("the table is not rendered: %s", page.Sections[2].HTML)
	}
	fetch[Problem](t, http.MethodGet, server.URL+"/api/lessons/nope", http.StatusNotFound)
	fetch[Problem](t, http.MethodPost, server.URL+"/api/lessons/nope/plays", http.StatusNotFound)
}

// A server that is not installed is named, with what installs it, before anything starts.
func TestMissingServersAreNamed(t *testing.T) {
	find := installed[lesson.Redis]
	t.Cleanup(func() { installed[lesson.Redis] = find })
	installed[lesson.Redis] = func() error { return &sandbox.MissingError{Program: "redis-server", Do: "run `scripts/setup --redis`"} }
	server := lessons(t)
	page := fetch[LessonPage](t, http.MethodGet, server.URL+"/api/lessons/redis-del-without-owner", http.StatusOK)
	const want = "redis-server is not installed: run `scripts/setup --redis`"
	if !slices.Equal(page.Missing, []string{want}) {
		t.Errorf("missing: %q", page.Missing)
	}
	if p := fetch[Problem](t, http.MethodPost, server.URL+"/api/lessons/redis-del-without-owner/plays", http.StatusUnprocessableEntity); p.Message != want {
		t.Errorf("got %+v", p)
	}
}

func TestOperatorHasNoOrder(t *testing.T) {
	t.Parallel()
	d := diagramOfLines([]testbed.Line{
		{Lane: 0, Actor: "A", Role: testbed.IsReplica, Kind: testbed.Lock, Server: testbed.Etcd, Text: "acquires the lock"},
		{Lane: 2, Actor: "operator", Role: testbed.IsOther, Kind: testbed.Fault, Text: "etcd hangs"},
		{Lane: 1, Actor: "B", Role: testbed.IsReplica, Kind: testbed.Refuse, Text: "refuses the order"},
	})
	want := []string{"1 A > etcd lock: acquires the lock", "0 operator > operator fault: etcd hangs", "2 B > B refuse: refuses the order"}
	if got := lines(d); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := lanes(d); got != "replica A, replica B, other operator, lock etcd" {
		t.Errorf("the lanes are %s", got)
	}
}
