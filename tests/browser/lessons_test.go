package browser_test

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

const played = `document.querySelector("[role=status]")?.innerText.startsWith("Played") === true`

// A lesson is chosen, played and stepped through with the keyboard alone.
func TestALessonIsPlayedByKeyboard(t *testing.T) {
	t.Parallel()
	url, b := serveLab(t)
	b.do(chromedp.EmulateViewport(1180, 900), chromedp.Navigate(url+"/lessons"))
	b.await("document.querySelectorAll('.lesson-list a').length === 22")
	b.look("lessons")
	b.tabTo(`[href="#no-lock"]`)
	b.do(chromedp.KeyEvent(kb.Enter))
	b.await("document.querySelectorAll('#lesson .questions li').length >= 3")
	if got := b.text("h1"); !strings.Contains(got, "two buyers read the same stock") || !strings.Contains(got, "超卖") {
		t.Errorf("the title is %q", got)
	}
	if got := b.text("#lesson"); !strings.Contains(got, "The picture") || !strings.Contains(got, "Why") || strings.Contains(got, "bin/loadtest lesson") {
		t.Errorf("the text is %s", got)
	}
	b.tabTo(".lesson-play button")
	b.do(chromedp.KeyEvent(kb.Enter))
	b.await(played)
	if got := eval[string](b, "[...document.querySelectorAll('.plays .verdict')].map((e) => e.innerText).join('; ')"); got !=
		"✗ an invariant is broken, as expected; ✓ the invariants hold, as expected; ✓ the invariants hold, as expected" {
		t.Errorf("the results are %s", got)
	}
	if got := eval[string](b, "[...document.querySelectorAll('.plays figure')].map((f) => f.querySelectorAll('.step').length).join()"); got != "4,9,4" {
		t.Errorf("the diagrams have %s steps", got)
	}
	if !eval[bool](b, `(([a, b]) => a.top === b.top && a.right <= b.left)([...document.querySelectorAll(".plays > *")].map((e) => e.getBoundingClientRect()))`) {
		t.Error("the broken and the cured variant are not beside each other")
	}
	b.tabTo(".diagram-box")
	b.do(chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowRight))
	if got := b.text(".diagram-now"); got != "Step 2 of 4: B to MySQL: reads the stock: 1 unit (order 2)" {
		t.Errorf("after two keys: %s", got)
	}
	b.look("lesson")
	b.image("lesson", 1600)

	// An answer is folded until it is asked for.
	const first = `document.querySelector(".questions details")`
	if eval[bool](b, `document.querySelectorAll(".questions details[open]").length > 0`) {
		t.Error("an answer is open at first")
	}
	b.tabTo(".questions summary")
	b.do(chromedp.KeyEvent(kb.Enter))
	b.await(first + ".open")
	if got := b.text(".questions details p"); !strings.Contains(got, "as the audit does") {
		t.Errorf("the first answer is %q", got)
	}
	b.look("lesson-answer")
	b.do(chromedp.KeyEvent(kb.Enter))
	b.await("!" + first + ".open")
	b.do(chromedp.EmulateViewport(360, 740))
	b.look("lesson-narrow")

	// The page that is loaded again shows the same, and stops the next play.
	b.do(chromedp.Reload())
	b.await(played)
	if got := eval[int](b, "document.querySelectorAll('.plays .step').length"); got != 17 {
		t.Errorf("after a reload, %d steps", got)
	}
	b.do(chromedp.Click(chromedp.CSS(".lesson-play button")))
	b.await(`document.querySelector("[role=status]").innerText.startsWith("Starting")`)
	b.do(chromedp.Click(chromedp.CSS(".lesson-play button.plain")))
	b.await(`document.querySelector("[role=status]").innerText === "Stopped."`)

	// A link between lessons, and one that does not exist.
	b.do(chromedp.Navigate(url + "/lessons#one-process-lock"))
	b.await("document.querySelector('#lesson a[href=\"#paused-holder\"]') !== null")
	eval[any](b, "document.querySelector('#lesson section a[href=\"#paused-holder\"]').click()")
	b.await("document.querySelector('h1').innerText.includes('防护令牌')")
	b.look("lesson-table-narrow")
}
