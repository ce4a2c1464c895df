package main

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"flashsale/loadtest/report"
)

const earlier = "of an earlier run"

// writeEarlier writes results of an earlier run into a new folder.
func writeEarlier(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{report.ProofFile, report.PageFile, "junit.xml", "results.jsonl"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(earlier), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// After a failure, CI must not read the result of an earlier run.
func TestFailedRunLeavesNoEarlierResult(t *testing.T) {
	t.Parallel()
	closed := httptest.NewServer(nil)
	closed.Close()
	wrong := newSmallShop(func(_ *smallShop, w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/v1/skus/") {
			return false
		}
		_, _ = w.Write([]byte(`{"sku":"another"}`))
		return true
	})
	unreadable := newSmallShop(func(_ *smallShop, w http.ResponseWriter, r *http.Request) bool {
		return r.Method == http.MethodGet && strings.Contains(r.URL.RawQuery, "sku=sale-") && refuse(w, http.StatusTooManyRequests)
	})
	attack := func(url string) []string {
		return []string{"attack", "--jwt-secret=any", "--admin-token=admin", "--rate=100", "--duration=1s", "--stock=20", "--target=" + url}
	}
	for _, tt := range []struct {
		name    string
		args    []string
		results string // what --results has afterwards: still the earlier ones, or others
		want    string
	}{
		{"no service", attack(closed.URL), earlier, "connection refused"},
		{"another service", attack(wrong.serve(t)), earlier, "docs/contract.md wants"},
		{"its orders cannot be read", attack(unreadable.serve(t)), `"outcome":"accepted"`, "429 Too Many Requests"},
		{"prove", []string{"prove", "--strategies=process", "--api=" + os.Args[0], "--mysql-dsn=root@tcp(" + strings.TrimPrefix(closed.URL, "http://") + ")/"}, earlier, "--mysql-dsn: "},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			dir := writeEarlier(t)
			junit, results := filepath.Join(dir, "junit.xml"), filepath.Join(dir, "results.jsonl")
			args := append(tt.args, "--out="+dir, "--junit="+junit)
			if tt.args[0] == "attack" {
				args = append(args, "--results="+results)
			}
			var out bytes.Buffer
			err := run(t.Context(), args, &out, &out)
			if err == nil || judged(err) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %s\n%s", err, tt.want, out.String())
			}
			for _, name := range []string{report.ProofFile, report.PageFile} {
				if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s of the earlier run is still there: %v", name, err)
				}
			}
			if text := readText(t, junit); !strings.Contains(text, `errors="1"`) || !strings.Contains(text, "<error message=") || strings.Contains(text, earlier) {
				t.Errorf("junit.xml has no error:\n%s", text)
			}
			if text := readText(t, results); !strings.Contains(text, tt.results) {
				t.Errorf("--results lacks %s:\n%.200s", tt.results, text)
			}
		})
	}
}

// The verdict is exact, but its SKUs stay on sale: CI must see both.
func TestJUnitHasAnErrorAfterTheVerdict(t *testing.T) {
	t.Parallel()
	shop := newSmallShop(func(_ *smallShop, w http.ResponseWriter, r *http.Request) bool {
		return r.Method == http.MethodDelete && path.Base(r.URL.Path) == "last-a-1" && refuse(w, http.StatusServiceUnavailable)
	})
	dir := writeEarlier(t)
	junit := filepath.Join(dir, "junit.xml")
	_, said, err := attackShop(t, shop.serve(t), "--until-contended", "--junit="+junit)
	text := readText(t, junit)
	if err == nil || judged(err) || !strings.Contains(text, `tests="1" failures="0" errors="0"`) || !strings.Contains(text, `errors="1"`) || !strings.Contains(text, "may still be on sale") {
		t.Errorf("got %v\n%s\n%s", err, text, said)
	}
}

func TestFileToCompareWithIsNotRemoved(t *testing.T) {
	t.Parallel()
	dir := writeEarlier(t)
	before := filepath.Join(dir, report.ProofFile)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{dir + "/.", link} {
		f := loadFlags{Compare: before, outFlag: outFlag{Out: out}}
		if err := f.begin(); err != nil || readText(t, before) != earlier {
			t.Errorf("--out %s: got %v, %s %q", out, err, before, readText(t, before))
		}
	}
}

func readText(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
