package look

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"flashsale/internal/strategy"
)

// schemes are the variables of look.css in light and dark, as colours.
func schemes(t *testing.T) (all map[string]map[string]rgb) {
	t.Helper()
	all = map[string]map[string]rgb{}
	text := map[string]string{}
	roots := regexp.MustCompile(`(?s):root \{(.*?)\}`).FindAllStringSubmatch(Read(Files, "look.css"), 2)
	for i, name := range []string{"light", "dark"} {
		for _, v := range regexp.MustCompile(`(--[a-z0-9-]+): ([^;]+);`).FindAllStringSubmatch(roots[i][1], -1) {
			text[v[1]] = v[2]
		}
		all[name] = map[string]rgb{}
		for variable, value := range text {
			if other, ok := strings.CutPrefix(value, "var("); ok {
				value = text[strings.TrimSuffix(other, ")")]
			}
			all[name][variable] = parse(t, value)
		}
	}
	return all
}

// rgb is a colour in linear light.
type rgb [3]float64

func parse(t *testing.T, hex string) (c rgb) {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimPrefix(hex, "#"), 16, 24)
	if err != nil || len(hex) != 7 {
		t.Fatalf("%q is not a colour such as #0077c8: %v", hex, err)
	}
	for i := range c {
		v := float64(n>>(16-8*i)&0xff) / 255
		if c[i] = v / 12.92; v > 0.04045 {
			c[i] = math.Pow((v+0.055)/1.055, 2.4)
		}
	}
	return c
}

func (c rgb) through(m [3]rgb) (out rgb) {
	for i, row := range m {
		out[i] = min(1, max(0, row[0]*c[0]+row[1]*c[1]+row[2]*c[2]))
	}
	return out
}

// contrast is that of WCAG 2.
func contrast(a, b rgb) float64 {
	luminance := func(c rgb) float64 { return 0.2126*c[0] + 0.7152*c[1] + 0.0722*c[2] }
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

// distance is the distance in CIELAB: about 2 can just be seen.
func distance(a, b rgb) float64 {
	lab := func(c rgb) rgb {
		f := func(t float64) float64 {
			if t > 216.0/24389 {
				return math.Cbrt(t)
			}
			return (24389.0/27*t + 16) / 116
		}
		x := f((0.4125*c[0] + 0.3576*c[1] + 0.1804*c[2]) / 0.9505)
		y := f(0.2126*c[0] + 0.7152*c[1] + 0.0722*c[2])
		z := f((0.0193*c[0] + 0.1192*c[1] + 0.9503*c[2]) / 1.0888)
		return rgb{116*y - 16, 500 * (x - y), 200 * (y - z)}
	}
	p, q := lab(a), lab(b)
	return math.Hypot(math.Hypot(p[0]-q[0], p[1]-q[1]), p[2]-q[2])
}

// visions are how people see. The matrices are those of Machado, Oliveira and Fernandes
// (2009) for dichromats.
var visions = map[string][3]rgb{
	"full":         {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	"protanopia":   {{0.152286, 1.052583, -0.204868}, {0.114503, 0.786281, 0.099216}, {-0.003882, -0.048116, 1.051998}},
	"deuteranopia": {{0.367322, 0.860646, -0.227968}, {0.280085, 0.672501, 0.047413}, {-0.011820, 0.042940, 0.968881}},
}

// flaws are pairs of hues that look alike to somebody, and colours that are too faint.
func flaws(all map[string]map[string]rgb) (found []string) {
	const apart = 20 // a glance tells such hues from each other
	backgrounds := []string{"--paper", "--panel"}
	least := func(scheme, variable string, want float64) {
		for _, background := range backgrounds {
			if got := contrast(all[scheme][variable], all[scheme][background]); got < want {
				found = append(found, fmt.Sprintf("%s: %s on %s: contrast %.2f", scheme, variable, background, got))
			}
		}
	}
	hues := slices.DeleteFunc(slices.Sorted(maps.Keys(all["light"])), func(v string) bool { return len(v) != 4 || v[2] != 'c' })
	for scheme, colours := range all {
		for _, variable := range []string{"--ink", "--soft", "--link", "--good", "--bad", "--warn", "--accent"} {
			least(scheme, variable, 4.5)
		}
		for i, a := range hues {
			least(scheme, a, 3)
			for _, b := range hues[:i] {
				for vision, m := range visions {
					if d := distance(colours[a].through(m), colours[b].through(m)); d < apart {
						found = append(found, fmt.Sprintf("%s: %s and %s: %.0f apart under %s", scheme, a, b, d, vision))
					}
				}
			}
		}
	}
	return found
}

func TestHuesAreApartAndClearToEverybody(t *testing.T) {
	t.Parallel()
	all := schemes(t)
	for _, flaw := range flaws(all) {
		t.Error(flaw)
	}
	// The check itself: a vermilion and a green of the same lightness, and a grey that is too faint.
	all["light"]["--c0"], all["light"]["--c3"], all["light"]["--c6"] = parse(t, "#b05000"), parse(t, "#6a7000"), parse(t, "#aaaaaa")
	found := strings.Join(flaws(all), "\n")
	for _, want := range []string{"light: --c3 and --c0: ", "apart under deuteranopia", "light: --c6 on --panel: contrast 2.32"} {
		if !strings.Contains(found, want) {
			t.Errorf("%q is not found in %q", want, found)
		}
	}
}

func TestEachStrategyHasALineOfItsOwn(t *testing.T) {
	t.Parallel()
	table := regexp.MustCompile(`(?s)const hues = \{\n(.*?)\n\};\nconst dashes = (.*?);\n`).FindStringSubmatch(Charts())
	dashes := strings.Count(table[2], "[") - 1
	hues := map[string]string{}
	for _, line := range regexp.MustCompile(`"(--c\d)": \[(.*)\]`).FindAllStringSubmatch(table[1], -1) {
		names := strings.Split(line[2], ", ")
		if len(names) > dashes {
			t.Errorf("%s has %d names for %d dashes", line[1], len(names), dashes)
		}
		for _, name := range names {
			name = strings.Trim(name, `"`)
			if hues[name] != "" {
				t.Errorf("%s has two hues", name)
			}
			hues[name] = line[1]
		}
	}
	for _, name := range strategy.Names() {
		if hues[name] == "" {
			t.Errorf("strategy %s has no hue in charts.js", name)
		}
	}
	// The demo's and the bench's first neighbours differ by more than a dash.
	if demo := []string{hues["none"], hues["process"], hues["etcd"], hues["noop"], hues["redis-lua"], hues["conditional"]}; len(slices.Compact(slices.Sorted(slices.Values(demo)))) != len(demo) {
		t.Errorf("neighbours share a hue: %v", demo)
	}
}
