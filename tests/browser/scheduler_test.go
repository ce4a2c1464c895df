package browser_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// openGame opens the scheduler's page at an address, when a level of it has begun.
func (l *lab) openGame(b *browser, address string) {
	l.t.Helper()
	b.do(chromedp.Navigate("http://" + l.host + "/scheduler" + address))
	b.await(shows("#levels", "The guard of this service"))
}

// players press keys, each when its button can be pressed.
func (b *browser) players(keys string) {
	b.t.Helper()
	for _, key := range keys {
		b.await(fmt.Sprintf("Boolean(document.querySelector('.players li:nth-child(%c) .go:not([aria-disabled])'))", key))
		b.do(chromedp.KeyEvent(string(key)))
		b.await("document.querySelector('#end').hidden ? !document.querySelector('#status').innerText.endsWith('...') : true")
	}
}

func choicesAre(choices string) string {
	return fmt.Sprintf("(new URLSearchParams(location.hash.slice(1)).get('choices') ?? '') === %q", choices)
}

const mayMove = "Boolean(document.querySelector('.players .go:not([aria-disabled])'))"

func TestAPersonSellsTheUnitTwiceByKeyboard(t *testing.T) {
	t.Parallel()
	l := startLab(t)
	b := openBrowser(t, l.host)
	b.do(chromedp.EmulateViewport(1366, 900))
	l.openGame(b, "")
	b.look("scheduler-levels")
	b.tabTo("#levels li:first-child button")
	b.do(chromedp.KeyEvent("\r"))
	b.await(shows(".players li:nth-child(2) .go", "B: read the stock"))
	b.look("scheduler-begin")

	b.players("12")
	b.await(shows(".players li:nth-child(1)", "has read: 1 left"))
	b.await(shows(".players li:nth-child(2) .go", "B: write 0"))
	b.players("1")
	b.await(shows(".players li:nth-child(1) .go", "A: commit"))

	// B has to wait for the row of A, which has not committed: MySQL gives up after a second.
	// The page itself notes what it shows for so short a time: this test may look too late.
	waits := shows(".players li:nth-child(2)", "waits for the row")
	eval[any](b, fmt.Sprintf(`window.waited = false; new MutationObserver(() => { waited ||= %s; })
		.observe(document.body, { subtree: true, childList: true, characterData: true })`, waits))
	b.do(chromedp.KeyEvent("2"))
	b.await(shows(".players li:nth-child(2)", "error 1205"))
	if !eval[bool](b, "waited") {
		t.Error("the page did not show that B waits for the row")
	}
	b.await(choicesAre("1,2,1,2"))
	b.look("scheduler-row")

	b.do(chromedp.KeyEvent("u"))
	b.await(choicesAre("1,2,1") + " && " + mayMove)
	b.await(shows(".players li:nth-child(2) .go", "B: write 0"))
	b.players("12212")
	b.await(shows("#end", "Sold twice"))
	b.await(shows("#end", "2 orders got the only unit. A read 1 unit, B read 1 unit, A wrote 0, A committed 0, B wrote 0, B committed 0."))
	b.await(shows("#stock", "0") + " && document.querySelectorAll('#orders tr').length === 2")
	b.await(shows("#levels li:first-child", "Won"))
	b.await("document.querySelectorAll('#drawing svg .wrong').length === 4")
	b.await(choicesAre("1,2,1,1,2,2,1,2"))
	b.look("scheduler-won")
	if href := eval[string](b, "document.querySelector('#end a').getAttribute('href')"); href != "/lessons#no-lock" {
		t.Errorf("the lesson is at %s", href)
	}

	// On a telephone, and with a game that a link has.
	b.do(chromedp.EmulateViewport(360, 740))
	b.look("scheduler-won-360")
	b.do(chromedp.KeyEvent("r"))
	b.await(choicesAre("") + " && " + mayMove)
	b.look("scheduler-begin-360")
	b.do(chromedp.EmulateViewport(1366, 900), chromedp.Navigate("about:blank"))
	l.openGame(b, "#level=three&choices=1,2,3,1,1,2,2,3,3,1,2,3")
	b.await(shows("#end", "Sold three times"))
	b.look("scheduler-three")
}

func TestAPersonCannotBeatTheGuard(t *testing.T) {
	t.Parallel()
	l := startLab(t)
	b := openBrowser(t, l.host, "409 (Conflict)", "422 (Unprocessable Entity)")
	b.do(chromedp.EmulateViewport(1366, 900))
	// A locks and claims; it is paused; B takes over and sells; A resumes and writes.
	l.openGame(b, "#level=etcd&choices=1,1")
	b.await(shows(".players li:nth-child(1) .go", "A: write 0") + " && " + mayMove)
	b.do(chromedp.KeyEvent("p"))
	b.await(shows(".players li:nth-child(1)", "its lease has ended") + " && " + mayMove)
	b.look("scheduler-paused")
	b.players("222")
	b.await(shows("#orders", "ben"))
	b.players("11")
	b.await(shows("#refusals", "no row matched: the token of A is"))
	b.await(shows("#refusals code", "UPDATE stock SET available = available - 1 WHERE sku = 'lamp' AND fence = "))
	b.look("scheduler-refused")
	b.image("scheduler", 1250)
	for range 20 {
		if eval[bool](b, "!document.querySelector('#end').hidden") {
			break
		}
		b.await(mayMove + " || !document.querySelector('#end').hidden")
		eval[bool](b, "document.querySelector('.players .go:not([aria-disabled])')?.click() ?? true")
		b.await("document.querySelector('#end').hidden ? !document.querySelector('#status').innerText.endsWith('...') : true")
	}
	b.await(shows("#end", "Sold once"))
	b.await(shows("#end", "In move 8 MySQL refused the write of A"))
	b.await(shows("#levels li:last-child", "Not sold twice"))
	b.look("scheduler-held")
	b.do(chromedp.EmulateViewport(360, 740))
	b.look("scheduler-held-360")

	// What a link has may be wrong, and another page may take over.
	for address, says := range map[string]string{
		"#level=moon":              "There is no level moon",
		"#level=none&choices=1,9":  `"9" is not a move`,
		"#level=none&choices=1,p1": "p1 is not possible now",
		"#level=process&choices=" + strings.Repeat("1,", 101) + "1": "has at most 100",
	} {
		b.do(chromedp.Navigate("about:blank"))
		l.openGame(b, address)
		b.await(shows("#message", says))
	}
	other := b.tab()
	l.openGame(b, "#level=none")
	b.await(mayMove)
	l.openGame(other, "#level=process")
	other.await(mayMove)
	b.await(shows("#message", "another one was started"))
	b.look("scheduler-ended")
	if err := l.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// A hidden page reads no journal, and goes on where it was when it is shown again.
func TestHiddenPagesOfTheLabReadNothing(t *testing.T) {
	t.Parallel()
	l := startLab(t)
	b := openBrowser(t, l.host)
	b.before("{ const Source = EventSource; window.sources = []; window.EventSource = class extends Source { constructor(url) { super(url); sources.push(this); } }; }")
	l.openGame(b, "#level=none")
	b.await(mayMove)
	b.show(false)
	b.await("sources.length === 1 && sources[0].readyState === EventSource.CLOSED")
	await[any](b, fmt.Sprintf(`fetch("/api/games/%s/moves", {method: "POST", body: '{"move": "1"}'}).then((answer) => answer.status)`, l.activities()[0].ID))
	b.await(choicesAre(""))
	b.show(true)
	b.await(choicesAre("1") + " && " + mayMove)
	b.players("2")
	b.await(choicesAre("1,2"))
}
