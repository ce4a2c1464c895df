package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"

	"flashsale/docs"
	"flashsale/internal/sandbox"
	"flashsale/loadtest/lesson"
	"flashsale/loadtest/lesson/testbed"
)

// LessonAbout is a lesson in the list.
type LessonAbout struct {
	Name    string   `json:"name"`
	Title   string   `json:"title"`
	Chinese string   `json:"chinese"`
	Servers []string `json:"servers"`
	// Missing says what is not installed, and how to install it.
	Missing []string `json:"missing"`
}

// LessonPage is a lesson with its text, from docs/lessons. The texts are HTML.
type LessonPage struct {
	LessonAbout
	Shows     string           `json:"shows"`
	Sections  []LessonSection  `json:"sections"`
	Questions []LessonQuestion `json:"questions"`
}

// LessonSection is a part of the text. The first one has no title.
type LessonSection struct {
	Title string `json:"title"`
	HTML  string `json:"html"`
}

// LessonQuestion is a question for a class.
type LessonQuestion struct {
	HTML   string `json:"html"`
	Answer string `json:"answer"`
}

// The messages of a lesson's journal, besides the last one: "variant", "diagram" and
// "result". Variant counts from 0.

// VariantStarted says that a variant runs now.
type VariantStarted struct {
	Variant int    `json:"variant"`
	Title   string `json:"title"`
	Breaks  bool   `json:"breaks"`
}

// VariantDiagram has the steps of a variant so far.
type VariantDiagram struct {
	Variant int      `json:"variant"`
	Diagram *Diagram `json:"diagram"`
}

// VariantResult is what the audit found after a variant.
type VariantResult struct {
	Variant  int      `json:"variant"`
	OK       bool     `json:"ok"`
	Expected bool     `json:"expected"`
	Text     string   `json:"text"`
	Audit    []string `json:"audit"`
}

func (s *Server) serveLessons() error {
	texts := map[string]*LessonPage{}
	for _, l := range lesson.All() {
		source, err := docs.Lessons.ReadFile("lessons/" + l.Name + ".md")
		if err != nil {
			return fmt.Errorf("the text of a lesson: %w", err)
		}
		if texts[l.Name], err = lessonText(source); err != nil {
			return fmt.Errorf("the text of %s: %w", l.Name, err)
		}
	}
	s.mux.HandleFunc("GET /api/lessons", func(w http.ResponseWriter, _ *http.Request) {
		var list []LessonAbout
		for _, l := range lesson.All() {
			list = append(list, aboutLesson(l))
		}
		answer(w, http.StatusOK, list)
	})
	s.mux.HandleFunc("GET /api/lessons/{name}", func(w http.ResponseWriter, r *http.Request) {
		if l := findLesson(w, r); l != nil {
			page := *texts[l.Name]
			page.LessonAbout, page.Shows = aboutLesson(l), l.Shows
			answer(w, http.StatusOK, page)
		}
	})
	s.mux.HandleFunc("POST /api/lessons/{name}/plays", s.playLesson)
	return nil
}

func findLesson(w http.ResponseWriter, r *http.Request) *lesson.Lesson {
	l, err := lesson.Find(r.PathValue("name"))
	if err != nil {
		fail(w, http.StatusNotFound, &Problem{Message: err.Error()})
		return nil
	}
	return l
}

// installed finds the programs of servers; etcd is built in.
var installed = map[string]func() error{
	lesson.MySQL: sandbox.DatabaseInstalled, lesson.Galera: sandbox.FindGalera, lesson.Redis: sandbox.FindRedis,
	lesson.Memcached: sandbox.FindMemcached, lesson.ZooKeeper: sandbox.FindZooKeeper, lesson.Kubernetes: sandbox.FindKubernetes,
	lesson.Node: func() error { return sandbox.CheckNode(context.Background()) }, // which bounds itself
}

func aboutLesson(l *lesson.Lesson) LessonAbout {
	about := LessonAbout{Name: l.Name, Title: l.Title, Chinese: l.Chinese, Servers: l.Servers, Missing: []string{}}
	for _, server := range l.Servers {
		if find := installed[server]; find != nil {
			if err := find(); err != nil {
				about.Missing = append(about.Missing, err.Error())
			}
		}
	}
	return about
}

// playLesson plays a lesson as the command does, on servers of its own.
func (s *Server) playLesson(w http.ResponseWriter, r *http.Request) {
	l := findLesson(w, r)
	if l == nil {
		return
	}
	if missing := aboutLesson(l).Missing; len(missing) > 0 {
		fail(w, http.StatusUnprocessableEntity, &Problem{Message: strings.Join(missing, "; ")})
		return
	}
	s.start(w, "lesson", l.Name, func(ctx context.Context, a *activity) (err error) {
		bed := testbed.New(testbed.Config{Database: s.cfg.Database, EtcdProgram: s.cfg.EtcdProgram})
		defer func() { err = errors.Join(err, bed.Close()) }()
		err = l.Play(ctx, bed, &play{activity: a})
		if ctx.Err() != nil { // stopped: the error says no more
			return ctx.Err()
		}
		return err
	})
}

// play draws a lesson in the journal of an activity.
type play struct {
	*activity
	variant int
	lines   []testbed.Line
}

func (p *play) Variant(n int, v *lesson.Variant) {
	p.variant, p.lines = n, nil
	p.say("variant", VariantStarted{n, v.Title, v.Breaks})
}

func (p *play) Line(line testbed.Line) {
	p.lines = append(p.lines, line)
	p.say("diagram", VariantDiagram{p.variant, diagramOfLines(p.lines)})
}

func (p *play) Result(r lesson.Result) {
	p.say("result", VariantResult{p.variant, r.OK, r.Expected, r.String(), r.Text})
}

// diagramOfLines draws the log of a lesson: actors from the left, then the servers that
// their steps are about. Each buyer or replica has an order.
func diagramOfLines(lines []testbed.Line) *Diagram {
	d := &Diagram{}
	lane := func(l Lane) int {
		if i := slices.IndexFunc(d.Lanes, func(known Lane) bool { return known.Name == l.Name }); i >= 0 {
			return i
		}
		d.Lanes = append(d.Lanes, l)
		return len(d.Lanes) - 1
	}
	for _, line := range slices.SortedStableFunc(slices.Values(lines), func(a, b testbed.Line) int { return a.Lane - b.Lane }) {
		lane(Lane{line.Actor, string(line.Role)})
	}
	for _, line := range lines {
		if line.Server != "" {
			lane(Lane{line.Server, kindOf(line.Server, lines)})
		}
	}
	for _, line := range lines {
		step := DiagramStep{US: line.At.Microseconds(), Lane: lane(Lane{Name: line.Actor}), Kind: string(line.Kind), Text: line.Text, Detail: []string{}}
		if step.To = step.Lane; line.Server != "" {
			step.To = lane(Lane{Name: line.Server})
		}
		if line.Role != testbed.IsOther {
			step.Order = line.Lane + 1
		}
		d.Steps = append(d.Steps, step)
	}
	return d
}

// kindOf is the kind of a server's lane, by what the lesson uses it for.
func kindOf(server string, lines []testbed.Line) string {
	switch {
	case server == testbed.MySQL, strings.HasPrefix(server, testbed.Galera):
		return "database"
	case slices.ContainsFunc(lines, func(l testbed.Line) bool { return l.Server == server && l.Kind == testbed.Lock }):
		return "lock"
	}
	return "other"
}

// lessonText splits the page of a lesson. What "Run it" shows is played instead.
func lessonText(source []byte) (*LessonPage, error) {
	markdown := goldmark.New(goldmark.WithExtensions(extension.Table))
	document := markdown.Parser().Parse(text.NewReader(source))
	if err := keepLinksInside(document); err != nil {
		return nil, err
	}
	render := func(node ast.Node) (string, error) {
		var html bytes.Buffer
		err := markdown.Renderer().Render(&html, source, node)
		return html.String(), err
	}
	page := &LessonPage{Sections: []LessonSection{{}}}
	for node := document.FirstChild(); node != nil; node = node.NextSibling() {
		if heading, ok := node.(*ast.Heading); ok && heading.Level <= 2 {
			if heading.Level == 2 {
				page.Sections = append(page.Sections, LessonSection{Title: string(heading.Lines().Value(source))})
			}
			continue
		}
		section := &page.Sections[len(page.Sections)-1]
		if section.Title == "Questions" {
			for item := node.FirstChild(); item != nil; item = item.NextSibling() {
				var question LessonQuestion
				into := &question.HTML
				for part := item.FirstChild(); part != nil; part = part.NextSibling() {
					if part.Kind() == ast.KindHTMLBlock { // the tags that fold the answer
						into = &question.Answer
						continue
					}
					html, err := render(part)
					if err != nil {
						return nil, err
					}
					*into += html
				}
				page.Questions = append(page.Questions, question)
			}
			continue
		}
		html, err := render(node)
		if err != nil {
			return nil, err
		}
		section.HTML += html
	}
	page.Sections = slices.DeleteFunc(page.Sections, func(s LessonSection) bool { return s.Title == "Questions" || s.Title == "Run it" })
	return page, nil
}

// keepLinksInside lets links between lessons work in the page, and replaces other links
// by their text: the lab works without a network.
func keepLinksInside(document ast.Node) error {
	var links []*ast.Link
	err := ast.Walk(document, func(node ast.Node, entering bool) (ast.WalkStatus, error) {
		if link, ok := node.(*ast.Link); ok && entering {
			links = append(links, link)
		}
		return ast.WalkContinue, nil
	})
	for _, link := range links {
		name := strings.TrimSuffix(string(link.Destination), ".md")
		if _, err := lesson.Find(name); err == nil {
			link.Destination = []byte("#" + name)
			continue
		}
		for link.FirstChild() != nil {
			link.Parent().InsertBefore(link.Parent(), link, link.FirstChild())
		}
		link.Parent().RemoveChild(link.Parent(), link)
	}
	return err
}
