// Package lab is the race lab: pages on which people watch how replicas sell the same unit,
// and how a guard stops it. It starts real servers and replicas, and shows what they
// recorded. It invents no step.
//
// The lab does one thing at a time, an activity: a run (run.go), a lesson (lessons.go) or a
// game in which a person is the scheduler (game.go). Each writes a journal, which any number
// of pages read from its beginning.
package lab

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"

	"flashsale/internal/sandbox"
)

// Config is what the lab runs with.
type Config struct {
	// API is the path of bin/api.
	API string
	// Database is the product of the private database; "" is the one that is installed.
	Database sandbox.Product
	// EtcdProgram is that of sandbox.Config.
	EtcdProgram []string
}

// Server is the lab. It is safe for concurrent use.
type Server struct {
	cfg Config
	mux *http.ServeMux

	mu         sync.Mutex
	closed     bool
	activities []*activity // the newest last

	stage stage
}

// New returns a lab that does nothing yet.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, mux: http.NewServeMux()}
	s.mux.HandleFunc("GET /api/activities", s.list)
	s.mux.HandleFunc("GET /api/activities/{id}/events", s.events)
	s.mux.HandleFunc("DELETE /api/activities/{id}", s.stop)
	s.mux.HandleFunc("GET /api/activities/{id}/page", s.savedPage)
	s.mux.HandleFunc("GET /api/options", s.options)
	s.mux.HandleFunc("POST /api/runs", s.startRun)
	s.serveGames()
	if err := errors.Join(s.servePages(), s.serveLessons()); err != nil {
		return nil, err
	}
	return s, nil
}

// ServeHTTP serves the pages and their API. It refuses what other sites' pages could send:
// requests with another host's name, which DNS rebinding sends, and calls from another origin.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	host, _, err := net.SplitHostPort(r.Host)
	if err != nil {
		host = r.Host
	}
	if ip := net.ParseIP(host); host != "localhost" && ip == nil {
		fail(w, http.StatusForbidden, &Problem{Message: "the lab does not answer to the name " + host + ": open it at the address that `make lab` printed"})
		return
	}
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		fail(w, http.StatusForbidden, &Problem{Message: err.Error()})
		return
	}
	s.mux.ServeHTTP(w, r)
}

// Close ends what is under way, and waits until nothing of it is left or ctx ends. Nothing
// is started any more.
func (s *Server) Close(ctx context.Context) error {
	s.mu.Lock()
	s.closed = true
	running := slices.Clone(s.activities)
	s.mu.Unlock()
	for _, a := range running {
		a.cancel()
	}
	for _, a := range running {
		select {
		case <-a.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.stage.close()
	return nil
}

// Problem is the body of each answer that refuses something.
type Problem struct {
	// Field names the setting that is wrong, as in the request; "" if none is.
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
	// Problems are all that is wrong with a run's settings, the first one included.
	Problems []Problem `json:"problems,omitempty"`
	// Running is the activity that has to end first.
	Running *About `json:"running,omitempty"`
}

func (p *Problem) Error() string {
	if p.Field != "" {
		return p.Field + ": " + p.Message
	}
	return p.Message
}

func fail(w http.ResponseWriter, status int, p *Problem) { answer(w, status, p) }

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // it fails only if the page is gone
}

// maxBody bounds a request's body, in bytes.
const maxBody = 64 << 10

// decode reads a request's body into v, strictly. It reports whether it could, and
// otherwise has answered.
func decode(w http.ResponseWriter, r *http.Request, v any) bool {
	in := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxBody))
	in.DisallowUnknownFields()
	err := in.Decode(v)
	if err == nil && in.More() {
		err = errors.New("the body has more than one JSON value")
	}
	if err != nil {
		p := &Problem{Message: err.Error()}
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			p = &Problem{Field: wrong.Field, Message: "must be a " + wrong.Type.String()}
		}
		fail(w, http.StatusBadRequest, p)
		return false
	}
	return true
}

// About identifies an activity.
type About struct {
	ID string `json:"id"`
	// Kind is "run", "lesson" or "game".
	Kind string `json:"kind"`
	// Title is for people.
	Title string `json:"title"`
}

// maxActivities bounds the journals that are kept, for pages that are opened again.
const maxActivities = 16

// start begins an activity and answers 201, or 409 if another one is under way. do must
// return soon after ctx has ended, and leave nothing behind.
func (s *Server) start(w http.ResponseWriter, kind, title string, do func(ctx context.Context, a *activity) error) {
	a, busy := s.begin(kind, title)
	if busy != nil {
		fail(w, http.StatusConflict, &Problem{Message: "the lab is busy: " + busy.Title, Running: busy})
		return
	}
	go a.run(do)
	answer(w, http.StatusCreated, a.About)
}

func (s *Server) begin(kind, title string) (a *activity, busy *About) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, &About{Title: "it is being stopped"}
	}
	if n := len(s.activities); n > 0 && !s.activities[n-1].over() {
		return nil, &s.activities[n-1].About
	}
	// No number: a page of a lab that was started again must not follow another activity.
	a = newActivity(About{ID: rand.Text(), Kind: kind, Title: title})
	s.activities = append(s.activities, a)
	if len(s.activities) > maxActivities {
		s.activities = slices.Delete(s.activities, 0, 1)
	}
	return a, nil
}

// list answers with the activities whose journals are kept, the newest last.
func (s *Server) list(w http.ResponseWriter, _ *http.Request) {
	type listed struct {
		About
		Over bool `json:"over"`
	}
	s.mu.Lock()
	all := make([]listed, len(s.activities))
	for i, a := range s.activities {
		all[i] = listed{a.About, a.over()}
	}
	s.mu.Unlock()
	answer(w, http.StatusOK, all)
}

// find returns the activity of a request's path, or answers 404.
func (s *Server) find(w http.ResponseWriter, r *http.Request) *activity {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.activities, func(a *activity) bool { return a.ID == r.PathValue("id") })
	if i < 0 {
		fail(w, http.StatusNotFound, &Problem{Message: "the lab no longer has this run, lesson or game; start it again"})
		return nil
	}
	return s.activities[i]
}

// stop ends an activity, and answers when nothing of it is left.
func (s *Server) stop(w http.ResponseWriter, r *http.Request) {
	a := s.find(w, r)
	if a == nil {
		return
	}
	a.cancel()
	select {
	case <-a.ended:
		w.WriteHeader(http.StatusNoContent)
	case <-r.Context().Done():
	}
}
