package browser_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// lab is a race lab, which starts servers of its own.
type lab struct {
	*sandbox.Process
	t    *testing.T
	host string
}

func startLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, host: sandboxtest.ReservePort(t)}
	var err error
	l.Process, err = sandbox.StartProcess(t.Context(), sandbox.ProcessConfig{
		Name:  "lab",
		Argv:  []string{sandboxtest.Build(t, "loadtest"), "lab", "--addr=" + l.host, "--api=" + sandboxtest.Build(t, "api")},
		Ready: func(ctx context.Context) error { return l.get(ctx, "/api/options", new(any)) },
		// It stops the servers of a run first.
		StopTimeout: patience,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *lab) get(ctx context.Context, path string, v any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.host+path, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, answer.Status)
	}
	if text, ok := v.(*[]byte); ok {
		*text, err = io.ReadAll(answer.Body)
		return err
	}
	return json.NewDecoder(answer.Body).Decode(v)
}

func (l *lab) activities() (all []struct {
	ID   string `json:"id"`
	Over bool   `json:"over"`
},
) {
	l.t.Helper()
	if err := l.get(l.t.Context(), "/api/activities", &all); err != nil {
		l.t.Fatal(err)
	}
	return all
}

// open opens the lab's page at an address, when its form is filled.
func (l *lab) open(b *browser, address string) {
	l.t.Helper()
	b.do(chromedp.Navigate("http://" + l.host + address))
	b.await("Boolean(document.querySelector('#seed')?.value)")
}

const (
	left, right = ".side:nth-child(1)", ".side:nth-child(2)"
	ended       = "Boolean(document.querySelector('.outcome h2'))"
	// small is a run that oversells visibly within four seconds.
	small = "/?units=10&buyers=240&rate=60"
)

func TestTheLabShowsHowAUnitIsSoldTwice(t *testing.T) {
	t.Parallel()
	l := startLab(t)
	b := openBrowser(t, l.host)
	b.do(chromedp.EmulateViewport(1366, 768))
	l.open(b, small)
	b.look("lab-before")
	b.tabTo("#start")
	b.do(chromedp.KeyEvent("\r"))
	b.await(fmt.Sprintf("Number(document.querySelector('%s .number.over strong')?.innerText) > 0", left))
	if text := b.text(left + " .number.over"); !strings.Contains(strings.ToLower(text), "oversold") {
		t.Errorf("the counter says %q", text)
	}
	// Another page, and a page that is loaded again, show the same run.
	other := b.tab()
	l.open(other, "/")
	b.do(chromedp.Reload())
	for _, page := range []*browser{b, other} {
		page.await(shows(left+" h2", "none"))
		page.await(fmt.Sprintf("document.querySelectorAll('%s .lanes li').length === 2", left))
		if !eval[bool](page, "document.querySelector('#stop').hidden === false") {
			t.Error("the run has ended too early for this test")
		}
		if units := eval[string](page, "document.querySelector('#units').value"); units != "10" {
			t.Errorf("the form has %s units", units)
		}
	}
	b.look("lab-running")
	b.await(ended)
	other.await(ended)
	if got, want := other.text("#run"), b.text("#run"); got != want {
		t.Errorf("another page shows %s, want %s", got, want)
	}
	b.checkRun()
	b.look("lab-after")
	eval[any](b, "scrollTo(0, 0); document.documentElement.style.zoom = 0.75; document.activeElement.blur()") // a wider page than the image
	b.image("lab", 1250)
	eval[any](b, "document.documentElement.style.zoom = ''")
	b.do(chromedp.EmulateViewport(360, 740))
	b.look("lab-after-narrow")
	l.checkSaved(b)
	// The link of the run has its settings, and its seed.
	if query := eval[string](b, "location.search"); !strings.Contains(query, "units=10&buyers=240&rate=60&seed=") {
		t.Errorf("the address is %s", query)
	}
	b.tabTo(".actions button")
	b.do(chromedp.KeyEvent("\r")) // again
	b.await("document.querySelector('#stop').hidden === false")
}

// checkRun compares the parts of a run of none against etcd.
func (b *browser) checkRun() {
	b.t.Helper()
	for side, want := range map[string]string{left: "oversold", right: "exact"} {
		if got := b.text(side + " h2 .verdict"); got != want {
			b.t.Errorf("%s: %s, want %s", side, got, want)
		}
		if !strings.Contains(b.text(".outcome"), want) {
			b.t.Errorf("the outcome is %s", b.text(".outcome"))
		}
		if n := eval[int](b, fmt.Sprintf("document.querySelectorAll('%s .diagram-box svg').length", side)); n != 1 {
			b.t.Errorf("%s: %d diagrams", side, n)
		}
	}
	over := eval[[]string](b, `[...document.querySelectorAll(".figures tr")].find((tr) => tr.innerText.startsWith("Units oversold")).innerText.split("\t").slice(1)`)
	if shown := []string{b.text(left + " .number.over strong"), b.text(right + " .number.over strong")}; fmt.Sprint(shown) != fmt.Sprint(over) || over[0] == "0" || over[1] != "0" {
		b.t.Errorf("the counters show %s, and the table %s", shown, over)
	}
	// The arrow keys go through the steps.
	b.tabTo(left + " .answer [tabindex]")
	seen := map[string]bool{}
	for range 3 {
		b.do(chromedp.KeyEvent(kb.ArrowDown))
		seen[b.text(left+" .answer")] = true
	}
	if len(seen) != 3 {
		b.t.Errorf("three steps look like %d", len(seen))
	}
	b.do(chromedp.KeyEvent(kb.Escape))
}

// checkSaved opens the run of a page from disk.
func (l *lab) checkSaved(b *browser) {
	l.t.Helper()
	var text []byte
	if err := l.get(l.t.Context(), eval[string](b, "document.querySelector('a[href$=\"/page\"]').pathname"), &text); err != nil {
		l.t.Fatal(err)
	}
	file := filepath.Join(l.t.TempDir(), "run.html")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		l.t.Fatal(err)
	}
	saved := openBrowser(l.t, "")
	saved.do(chromedp.EmulateViewport(1366, 768), chromedp.Navigate("file://"+file))
	saved.await(ended)
	saved.checkRun()
	saved.look("lab-saved")
	for _, part := range []string{".settings", ".outcome", left + " .answer", right + " .answer", left + " .replicas", right + " .replicas", ".figures"} {
		if got, want := saved.parts(part), b.parts(part); got != want || got == "" {
			l.t.Errorf("%s of the saved run is %s, want %s", part, got, want)
		}
	}
}

// parts is the text of an element without regard for its layout.
func (b *browser) parts(selector string) string {
	b.t.Helper()
	return eval[string](b, fmt.Sprintf("document.querySelector(%q).textContent", selector))
}

func TestTheLabsSettingsAreItsAddress(t *testing.T) {
	t.Parallel()
	l := startLab(t)
	b := openBrowser(t, l.host, "422 (Unprocessable")
	b.do(chromedp.EmulateViewport(360, 740))
	l.open(b, "/?strategy=process&against=&replicas=3&fence=off&think_ms=7")
	for field, want := range map[string]string{"strategy": "process", "against": "", "fence": "off", "replicas": "3", "think_ms": "7"} {
		if got := eval[string](b, fmt.Sprintf("document.querySelector('#%s').value", field)); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	address := func(want string) {
		t.Helper()
		b.await(fmt.Sprintf("location.search === %q", want))
	}
	// A fence is only shown for a lock with a token.
	b.await("!document.querySelector('#fence').checkVisibility()")
	b.do(chromedp.SetValue(chromedp.CSS("#against"), "etcd"))
	eval[any](b, "document.querySelector('#against').dispatchEvent(new Event('input', {bubbles: true}))")
	b.await("document.querySelector('#fence').checkVisibility()")
	b.await(shows(".fields", "fencing token that MySQL checks"))
	address("?strategy=process&fence=off&replicas=3&think_ms=7")
	b.do(chromedp.SendKeys(chromedp.CSS("#replicas"), "\b2"))
	address("?strategy=process&fence=off&think_ms=7")
	b.do(chromedp.Click(chromedp.CSS("#copy")))
	b.await(shows("#note", "copied") + " || " + shows("#note", "think_ms=7"))

	// Bad values in the address, typed ones, and those that only the lab knows.
	l.open(b, "/?strategy=nonsense&replicas=99&rate=1")
	b.await(shows("#strategy-error", "There is no nonsense") + " && " + shows("#replicas-error", "from 1 to"))
	b.do(chromedp.SendKeys(chromedp.CSS("#units"), "\b\b"))
	b.look("lab-wrong")
	b.do(chromedp.Click(chromedp.CSS("#start")))
	b.await("document.activeElement.id === 'strategy'")
	b.do(chromedp.SetValue(chromedp.CSS("#strategy"), "none"), chromedp.SetValue(chromedp.CSS("#replicas"), "2"), chromedp.SetValue(chromedp.CSS("#units"), "10"))
	eval[any](b, "['strategy', 'replicas', 'units'].forEach((id) => document.getElementById(id).dispatchEvent(new Event('input', {bubbles: true})))")
	b.await("[...document.querySelectorAll('.error')].every((e) => !e.innerText)")
	b.do(chromedp.Click(chromedp.CSS("#start")))
	b.await(shows("#buyers-error", "must be at most"))
	b.do(chromedp.SendKeys(chromedp.CSS("#rate"), "00")) // mends it
	b.await("!document.querySelector('#buyers-error').innerText")
	if all := l.activities(); len(all) != 0 {
		t.Errorf("a wrong setting was run: %v", all)
	}
}

func TestALabRunIsStoppedAndTheLabsEndIsNoticed(t *testing.T) {
	t.Parallel()
	l := startLab(t)
	b := openBrowser(t, l.host, "409 (Conflict", "ERR_CONNECTION_REFUSED", "ERR_CONNECTION_RESET", "ERR_EMPTY_RESPONSE", "ERR_INCOMPLETE_CHUNKED_ENCODING")
	l.open(b, "/?buyers=3000")
	for _, when := range []string{"document.querySelector('#stop').hidden === false", fmt.Sprintf("Number(document.querySelector('%s .number strong:first-child')?.innerText) < 20", left)} {
		b.do(chromedp.Click(chromedp.CSS("#start")))
		b.await(when)
		b.tabTo("#stop")
		b.do(chromedp.KeyEvent("\r"))
		b.await(shows(".outcome", "The run was stopped"))
		b.await("document.activeElement.id === 'start' && document.querySelector('#stop').hidden")
		if all := l.activities(); !all[len(all)-1].Over {
			t.Error("the run goes on")
		}
	}
	b.look("lab-stopped")
	// A lesson has to end first.
	await[any](b, `fetch("/api/lessons/no-lock/plays", {method: "POST"})`)
	b.do(chromedp.Click(chromedp.CSS("#start")))
	b.await(shows("#message", "The lab is busy"))
	b.do(chromedp.Click(chromedp.CSS("#message button")))
	b.await("document.activeElement.id === 'start' && !document.querySelector('#message').innerText")
	b.do(chromedp.Click(chromedp.CSS("#start")))
	b.await(fmt.Sprintf("document.querySelectorAll('%s .lanes li').length > 0", left))
	if err := l.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	b.await(shows("#message", "The lab has ended; start it again with make lab."))
	b.await("!document.querySelector('#start').hasAttribute('aria-disabled')")
}
