package browser_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"

	"flashsale/internal/sandbox/sandboxtest"
)

// TestTheReportsCanBeRead opens the pages of saved results from the disk. The results are
// those of real runs.
func TestTheReportsCanBeRead(t *testing.T) {
	t.Parallel()
	loadtest := sandboxtest.Build(t, "loadtest")
	for _, report := range []struct{ name, result, file, bar, hue string }{
		{"report", "proof.json", "report.html", ".bar-name[data-strategy=none] .swatch", "--c0"},
		{"bench", "bench.json", "bench.html", "[data-strategy=etcd] .bar-sold", "--c2"},
		{"faults", "faults.json", "faults.html", ".swatch.fault", "--over"},
	} {
		t.Run(report.name, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(filepath.Join("testdata", report.result))
			if err != nil {
				t.Fatal(err)
			}
			folder := t.TempDir()
			if err := os.WriteFile(filepath.Join(folder, report.result), text, 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), loadtest, "page", filepath.Join(folder, report.result)).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			b := openBrowser(t, "")
			b.do(chromedp.EmulateViewport(1100, 900), chromedp.Navigate("file://"+filepath.Join(folder, report.file)))
			b.await("document.querySelectorAll('details').forEach((d) => d.open = true) || document.querySelectorAll('.uplot').length === document.querySelectorAll('.chart').length")
			b.image(report.name, 1300)
			b.look(report.name)
			b.do(chromedp.EmulateViewport(360, 740))
			b.await("[...document.querySelectorAll('canvas')].every((c) => c.clientWidth < 360)")
			b.look(report.name + "-narrow")

			if !eval[bool](b, fmt.Sprintf("{ const paint = document.createElement('i'); paint.style.color = colour(%q); document.body.append(paint); "+
				"getComputedStyle(document.querySelector(%q)).backgroundColor === getComputedStyle(paint).color }", report.hue, report.bar)) {
				t.Errorf("%s has not the colour %s", report.bar, report.hue)
			}
			var want, got map[string]any
			if err := json.Unmarshal(text, &want); err != nil {
				t.Fatal(err)
			}
			if eval[string](b, "document.querySelector('footer a').download") != report.result {
				t.Errorf("the page offers no %s", report.result)
			}
			if err := json.Unmarshal([]byte(await[string](b, "fetch(document.querySelector('footer a').href).then((r) => r.text())")), &got); err != nil {
				t.Fatal(err)
			}
			for key := range maps.Keys(want) {
				if _, ok := got[key]; !ok {
					t.Errorf("the data that the page offers lacks %s", key)
				}
			}
			b.printed(report.name)
		})
	}
}

// printed checks that a page is dark on white on paper, also for those who prefer dark pages.
func (b *browser) printed(name string) {
	b.t.Helper()
	b.do(chromedp.EmulateViewport(1100, 900), chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Media: "print", Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}}})
		return err
	}))
	b.picture(name + "-print")
	if got := eval[[]string](b, "[getComputedStyle(document.body).backgroundColor, colour('--ink')]"); got[0] != "rgb(255, 255, 255)" || got[1] != "#1d242c" {
		b.t.Errorf("%s is printed with the colours %s", name, got)
	}
	var pdf []byte
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		result, err := cdp.Call(ctx, t, page.PrintToPDF, page.PrintToPDFParams{PrintBackground: new(true)})
		if err == nil {
			pdf = result.Data
		}
		return err
	}))
	if !strings.HasPrefix(string(pdf), "%PDF-") {
		b.t.Errorf("%s cannot be printed: %.20q", name, pdf)
	}
	if folder := os.Getenv("FLASHSALE_PICTURES"); folder != "" {
		if err := os.WriteFile(filepath.Join(folder, name+".pdf"), pdf, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
}
