package browser_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"flashsale/internal/sandbox"
	"flashsale/internal/sandbox/sandboxtest"
)

// serveLab starts the race lab, and opens a browser for it.
func serveLab(t *testing.T) (url string, b *browser) {
	t.Helper()
	port, err := sandbox.ReservePort()
	if err != nil {
		t.Fatal(err)
	}
	url = "http://" + port.Addr
	lab, err := sandbox.StartProcess(t.Context(), sandbox.ProcessConfig{
		Name: "loadtest lab", Argv: []string{sandboxtest.Build(t, "loadtest"), "lab", "--addr", port.Addr, "--api", sandboxtest.Build(t, "api")}, Ports: []*sandbox.Port{port},
		StopTimeout: patience,
		Ready: func(ctx context.Context) error {
			request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/api/activities", http.NoBody)
			if err != nil {
				return err
			}
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				return err
			}
			return response.Body.Close()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Stop(context.Background()); err != nil {
			t.Errorf("%v\n%s", err, lab.LogTail(20))
		}
	})
	return url, openBrowser(t, port.Addr)
}

// draw draws a diagram in an empty page.
func (b *browser) draw(url, diagram string) {
	b.t.Helper()
	b.do(chromedp.Navigate(url + "/lessons"))
	b.await("document.querySelector('.lesson-list') !== null")
	await[any](b, `import("/assets/diagram.js").then(({drawDiagram}) => {
		window.drawn = drawDiagram(document.querySelector("#lesson"), `+diagram+`, {title: "Two orders sell the last unit"});
	})`)
	b.await("document.querySelectorAll('.diagram .step').length > 0")
}

// race is the diagram of an oversell.
const race = `{lanes: [["ann", "buyer"], ["ben", "buyer"], ["replica-1", "replica"], ["replica-2", "replica"], ["MySQL", "database"], ["etcd", "lock"]].map(([name, kind]) => ({name, kind})),
	steps: [
		[0, 0, 2, "order", "orders 1 unit", 1], [170, 1, 3, "order", "orders 1 unit", 2],
		[301, 5, 2, "lock", "grants the lock, token 9", 1], [302, 2, 3, "forward", "forwards the order", 2],
		[753, 2, 4, "read", "reads: 1 unit left", 1, true], [1278, 3, 4, "read", "reads: 1 unit left", 2, true],
		[2001902, 2, 4, "write", "writes: 0 units left", 1, true], [2002993, 3, 4, "write", "writes: 0 units left", 2, true],
		[2003752, 3, 4, "commit", "commits: 0 units left", 2], [2003756, 2, 4, "commit", "commits: 0 units left", 1],
		[2003764, 4, 2, "refuse", "no effect: the row has changed, or has too few units", 1],
		[2003767, 2, 2, "refuse", "refuses: sold out", 1], [2003768, 5, 5, "fault", "a leader is elected, which takes a while", 0],
		[2003769, 2, 0, "answer", "answers: placed", 1],
	].map(([us, lane, to, kind, text, order, wrong = false]) => ({us, lane, to, kind, text, order, wrong, detail: ["token 9", "seq 1", "order 01a22566-5829-7428-b0b5-4c4756a0a761"]}))}`

// long is a diagram with long words and many steps and lanes.
const long = `{lanes: Array.from({length: 8}, (_, i) => ({name: "replica-" + "x".repeat(5 * i), kind: "replica"})),
	steps: Array.from({length: 120}, (_, i) => ({us: i * 900001, lane: i % 8, to: (i * 3) % 8, kind: "write", order: i % 5, wrong: false, detail: [],
		text: i % 7 ? "writes the stock" : "https://an-address-without-a-blank.example/" + "y".repeat(i)}))}`

// flawsOfDiagram are labels that meet another label, or are cut off at an edge.
const flawsOfDiagram = `(() => {
	const all = [...document.querySelectorAll(".diagram-box text.words")].map((e) => ({text: e.textContent, box: e.getBBox()}));
	const {width, height} = document.querySelector(".diagram-box svg").viewBox.baseVal;
	const flaws = all.filter(({box}) => box.x < 0 || box.y < 0 || box.x + box.width > width || box.y + box.height > height).map(({text}) => "cut off: " + text);
	all.forEach(({text, box: a}, i) => all.slice(i + 1).forEach(({text: other, box: b}) => {
		if (a.x < b.x + b.width && b.x < a.x + a.width && a.y + 3 < b.y + b.height && b.y + 3 < a.y + a.height) flaws.push(text + " meets " + other);
	}));
	return flaws;
})()`

func TestDiagramFitsAndIsReadable(t *testing.T) {
	t.Parallel()
	url, b := serveLab(t)
	for _, width := range []int64{1180, 360} {
		for name, diagram := range map[string]string{"race": race, "long": long} {
			b.do(chromedp.EmulateViewport(width, 740))
			b.draw(url, diagram)
			for _, flaw := range eval[[]string](b, flawsOfDiagram) {
				t.Errorf("%s at %d: %s", name, width, flaw)
			}
			eval[any](b, "drawn.show(4)")
			b.look(fmt.Sprintf("diagram-%s-%d", name, width))
		}
	}
	b.draw(url, race)
	if !eval[bool](b, "document.querySelector('.diagram-box').scrollWidth > 360") {
		t.Error("a wide diagram does not scroll in its box")
	}
	eval[any](b, "drawn.show(7)")
	if !eval[bool](b, `(() => {
		const {left, right, top, bottom} = document.querySelector(".now text:last-child").getBoundingClientRect();
		return left >= 0 && right <= innerWidth && top >= document.querySelector(".diagram-bar").getBoundingClientRect().bottom && bottom <= innerHeight;
	})()`) {
		t.Error("the label of the current step is not in view")
	}
}

// On paper nothing is dimmed, and a wide diagram is scaled to the width.
func TestDiagramIsPrinted(t *testing.T) {
	t.Parallel()
	url, b := serveLab(t)
	b.do(chromedp.EmulateViewport(600, 740))
	b.draw(url, race)
	eval[any](b, "drawn.show(4)")
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"})
		return err
	}))
	b.picture("diagram-print")
	if !eval[bool](b, `document.querySelector(".diagram-box svg").getBoundingClientRect().right <= innerWidth`) {
		t.Error("the diagram is cut off")
	}
	if got := eval[string](b, `getComputedStyle(document.querySelector(".later")).opacity + getComputedStyle(document.querySelector(".diagram-bar")).display`); got != "1none" {
		t.Errorf("later steps and the buttons: %s", got)
	}
}

func TestDiagramIsSteppedByKeys(t *testing.T) {
	t.Parallel()
	url, b := serveLab(t)
	b.draw(url, race)
	now := "document.querySelector('.diagram-now').innerText"
	if got := eval[string](b, now); !strings.HasPrefix(got, "14 steps") {
		t.Errorf("at first: %s", got)
	}
	eval[any](b, "document.querySelector('.diagram-box').focus()")
	for _, step := range []struct{ key, want string }{
		{kb.ArrowRight, "Step 1 of 14: ann to replica-1: orders 1 unit (order 1)"},
		{kb.ArrowDown, "Step 2 of 14"}, {kb.ArrowUp, "Step 1 of 14"}, {kb.ArrowLeft, "Step 1 of 14"},
		{kb.End, "Step 14 of 14"}, {kb.ArrowRight, "Step 14 of 14"}, {kb.Home, "Step 1 of 14"}, {kb.Escape, "14 steps"},
	} {
		b.do(chromedp.KeyEvent(step.key))
		if got := eval[string](b, now); !strings.HasPrefix(got, step.want) {
			t.Errorf("got %q, want %q", got, step.want)
		}
	}
	next := chromedp.CSS(".diagram-bar button:nth-child(3)")
	b.do(chromedp.Click(next), chromedp.Click(next))
	if got := eval[string](b, "document.querySelectorAll('.step.later').length + ' of ' + document.querySelectorAll('.step').length + ', ' + document.querySelectorAll('.step.now').length"); got != "12 of 14, 1" {
		t.Errorf("after step 2, dimmed %s now", got)
	}
	if got := b.text(".diagram-detail"); !strings.Contains(got, "order 01a22566-5829-7428-b0b5-4c4756a0a761") {
		t.Errorf("the detail is %q", got)
	}
	eval[any](b, "drawn.update({lanes: [{name: 'A', kind: 'replica'}], steps: []})")
	if got := eval[string](b, now); !strings.HasPrefix(got, "0 steps") {
		t.Errorf("an empty diagram: %s", got)
	}
}
