package browser_test

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

//go:embed axe-core/axe.min.js.gz
var axeZipped []byte

var axe = sync.OnceValues(func() (string, error) {
	in, err := gzip.NewReader(bytes.NewReader(axeZipped))
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(in)
	return string(text), err
})

// look keeps pictures of the page in both colour schemes, and reports its flaws in each.
func (b *browser) look(name string) {
	b.t.Helper()
	for _, scheme := range []string{"light", "dark"} {
		b.prefer("prefers-color-scheme", scheme)
		b.picture(name + "-" + scheme)
		for _, flaw := range b.flaws() {
			b.t.Errorf("%s, %s: %s", name, scheme, flaw)
		}
	}
	b.prefer("prefers-color-scheme", "light")
}

// flaws are what axe-core finds, what reaches beyond the right edge and is not in a .scroll
// box, and what moves for users who prefer reduced motion.
func (b *browser) flaws() []string {
	b.t.Helper()
	source, err := axe()
	if err != nil {
		b.t.Fatal(err)
	}
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := chromedp.Evaluate[bool](source+"; true")(ctx, t)
		return err
	}))
	found := await[[]string](b, `axe.run({resultTypes: ["violations"]}).then(({violations}) =>
		violations.flatMap((v) => v.nodes.map((n) => v.id + ": " + n.html + ": " + n.failureSummary)))`)
	return append(found, eval[[]string](b, `[
		...[...document.querySelectorAll("*")].filter((e) => !e.parentElement?.closest(".scroll")).filter((e) => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1 ||
			e === document.documentElement && e.scrollWidth > e.clientWidth).map((e) => "beyond the right edge: " + e.outerHTML.slice(0, 200)),
		...[...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]).filter((rule) => rule instanceof CSSStyleRule &&
			/(transition|animation|scroll-behavior)(-[a-z]+)*:/.test(rule.cssText)).map((rule) => "motion outside of a media rule: " + rule.cssText),
	]`)...)
}

func TestFlawsAreFound(t *testing.T) {
	t.Parallel()
	s, b := shop(t)
	b.do(chromedp.Navigate(s.URL))
	b.await(shows("#live", "Live"))
	for flaw, script := range map[string]string{
		"color-contrast":                 `rule("@media (prefers-color-scheme: dark) { h2 { color: #444 } }")`,
		"motion outside of a media rule": `rule("h3 { transition: color 1s }")`,
		"image-alt":                      `document.querySelector("h1 img").removeAttribute("alt")`,
		"beyond the right edge":          `rule("h2 { white-space: nowrap }"); document.querySelector("#sale-title").append("x".repeat(1000))`,
	} {
		eval[any](b, "{ const sheet = document.styleSheets[0]; const rule = (text) => sheet.insertRule(text, sheet.cssRules.length); "+script+" }")
		b.prefer("prefers-color-scheme", "dark")
		if found := b.flaws(); !slices.ContainsFunc(found, func(text string) bool { return strings.HasPrefix(text, flaw) }) {
			t.Errorf("%s is not found: %q", flaw, found)
		}
	}
}

// prefer sets what the user prefers: a feature of CSS media queries.
func (b *browser) prefer(feature, value string) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: feature, Value: value}}})
		return err
	}))
}

// await returns what a promise resolves to.
func await[T any](b *browser, promise string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	got, err := chromedp.Run(ctx, chromedp.Evaluate[T](promise, chromedp.EvalAwaitPromise))
	if err != nil {
		b.t.Fatalf("%s: %v", promise, err)
	}
	return got
}
