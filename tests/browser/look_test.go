package browser_test

import (
	"bytes"
	"compress/gzip"
	"context"
	_ "embed"
	"io"
	"sync"

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

// look keeps pictures of the page in both colour schemes. In each it reports what
// axe-core finds, and what reaches beyond the right edge.
func (b *browser) look(name string) {
	b.t.Helper()
	source, err := axe()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, scheme := range []string{"light", "dark"} {
		b.prefer("prefers-color-scheme", scheme)
		b.picture(name + "-" + scheme)
		b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
			_, err := chromedp.Evaluate[bool](source+"; true")(ctx, t)
			return err
		}))
		for _, found := range await[[]string](b, `axe.run({resultTypes: ["violations"]}).then(({violations}) =>
			violations.flatMap((v) => v.nodes.map((n) => v.id + ": " + n.html + ": " + n.failureSummary)))`) {
			b.t.Errorf("%s, %s: %s", name, scheme, found)
		}
		for _, wide := range eval[[]string](b, `[...document.body.querySelectorAll("*")].filter((e) =>
			e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map((e) => e.outerHTML.slice(0, 200))`) {
			b.t.Errorf("%s, %s: beyond the right edge: %s", name, scheme, wide)
		}
	}
	b.prefer("prefers-color-scheme", "light")
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
