package browser_test

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chromedp/chromedp"
)

const (
	// imageWidth is in pixels: README shows about 900.
	imageWidth = 1100
	// maxImage is in bytes: the repository keeps each version of each file.
	maxImage = 150_000
)

// image writes the upper part of the page, in light colours, into the folder
// FLASHSALE_SCREENSHOTS, if that is set: "make screenshots" sets it to docs/images.
func (b *browser) image(name string, height int64) {
	b.t.Helper()
	folder := os.Getenv("FLASHSALE_SCREENSHOTS")
	if folder == "" {
		return
	}
	b.do(chromedp.EmulateViewport(imageWidth, height))
	b.prefer("prefers-color-scheme", "light")
	// A bar on its way shows another stock than the text beside it: hiding it ends its transition.
	eval[any](b, "document.querySelectorAll('progress').forEach((p) => { p.style.display = 'none'; p.offsetWidth; p.style.display = ''; })")
	shot, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	full, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		b.t.Fatal(err)
	}
	var small bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&small, reduced(full)); err != nil {
		b.t.Fatal(err)
	}
	if small.Len() > maxImage {
		b.t.Errorf("%s.png has %d bytes, want at most %d", name, small.Len(), maxImage)
	}
	if err := os.WriteFile(filepath.Join(folder, name+".png"), small.Bytes(), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// reduced is an image in its 256 most frequent colours. Those of a page are few: the rest
// are the edges of its letters.
func reduced(full image.Image) *image.Paletted {
	count := map[color.Color]int{}
	area := full.Bounds()
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			count[full.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return count[b] - count[a] })
	small := image.NewPaletted(area, colours[:min(256, len(colours))])
	draw.Draw(small, area, full, area.Min, draw.Src)
	return small
}

func TestAnImageKeepsItsFrequentColours(t *testing.T) {
	t.Parallel()
	full := image.NewRGBA(image.Rect(0, 0, 300, 2))
	for x := range 300 {
		full.Set(x, 0, color.RGBA{200, 0, 0, 255})
		full.Set(x, 1, color.RGBA{0, uint8(x % 256), uint8(x / 2), 255})
	}
	small := reduced(full)
	if r, g, _, _ := small.At(7, 0).RGBA(); len(small.Palette) != 256 || r>>8 != 200 || g != 0 {
		t.Errorf("%d colours, the most frequent one is now %v", len(small.Palette), small.At(7, 0))
	}
}
