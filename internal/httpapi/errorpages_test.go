package httpapi

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"flashsale/docs"
	"flashsale/internal/httpapi/contract"
	"flashsale/internal/httpapi/spec"
)

// The table of problems, docs/errors and the contract must have the same slugs.
func TestEachProblemHasAPageAndIsInTheContract(t *testing.T) {
	t.Parallel()
	pages, err := docs.Errors.ReadDir("errors")
	if err != nil {
		t.Fatal(err)
	}
	left := map[string]bool{}
	for _, file := range pages {
		left[strings.TrimSuffix(file.Name(), ".md")] = true
	}
	for _, k := range kinds {
		if !left[k.Slug] {
			t.Errorf("problem %s has no page in docs/errors", k.Slug)
			continue
		}
		delete(left, k.Slug)
		text, err := docs.Errors.ReadFile("errors/" + k.Slug + ".md")
		if err != nil {
			t.Fatal(err)
		}
		checkPage(t, &k, string(text))
		if !strings.Contains(string(spec.YAML), "`"+k.Slug+"`") {
			t.Errorf("the contract does not mention `%s`", k.Slug)
		}
	}
	declared, err := contract.Load(spec.YAML)
	if err != nil {
		t.Fatal(err)
	}
	problems, err := declared.Resolve(map[string]any{"$ref": "#/components/schemas/ProblemType"})
	if err != nil {
		t.Fatal(err)
	}
	var want []any
	for _, k := range kinds {
		want = append(want, k.problem("").Type)
	}
	less := func(a, b any) bool { return a.(string) < b.(string) }
	if diff := cmp.Diff(want, problems["enum"], cmpopts.SortSlices(less)); diff != "" {
		t.Errorf("ProblemType differs from the table (-table +contract):\n%s", diff)
	}
	for slug := range left {
		t.Errorf("docs/errors/%s.md belongs to no problem", slug)
	}
}

// checkPage checks that a page has all sections, and that its example is the
// problem's answer.
func checkPage(t *testing.T, k *kind, text string) {
	t.Helper()
	for _, part := range []string{"# " + k.Title + "\n", "## What it means\n", "## What was applied\n", "## What to do\n", "## An answer\n", "HTTP/1.1 "} {
		if !strings.Contains(text, part) {
			t.Errorf("the page of %s has no %q", k.Slug, part)
		}
	}
	_, example, _ := strings.Cut(text, "```http\n")
	_, example, _ = strings.Cut(example, "\n\n")
	example, _, _ = strings.Cut(example, "```")
	var got problem
	if err := json.Unmarshal([]byte(example), &got); err != nil {
		t.Errorf("the example of %s: %v", k.Slug, err)
	}
	want := k.problem("")
	if got.Type != want.Type || got.Title != want.Title || got.Status != want.Status || want.Detail != "" && got.Detail != want.Detail {
		t.Errorf("the example of %s is %+v, want %+v", k.Slug, got, *want)
	}
}

func TestProblemTypesArePages(t *testing.T) {
	t.Parallel()
	handler, err := New(instantConfig())
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		return w
	}
	list := get("/errors").Body.String()
	for _, k := range kinds {
		got := get("/errors/" + k.Slug)
		if kind := got.Header().Get("Content-Type"); got.Code != http.StatusOK || kind != "text/html; charset=utf-8" {
			t.Errorf("/errors/%s: %d %s", k.Slug, got.Code, kind)
		}
		if !strings.Contains(got.Body.String(), "What to do</h2>") {
			t.Errorf("/errors/%s has no What to do section: %s", k.Slug, got.Body)
		}
		if !strings.Contains(list, `href="/errors/`+k.Slug+`"`) {
			t.Errorf("/errors does not list %s", k.Slug)
		}
	}
	if first, last := strings.Index(list, "malformed-request"), strings.Index(list, "unavailable"); first > last {
		t.Errorf("/errors is not sorted by status: %s", list)
	}
	if got := get("/errors/no-such"); got.Code != http.StatusNotFound || !strings.Contains(got.Body.String(), "/errors/not-found") {
		t.Errorf("an unknown page: %d %s", got.Code, got.Body)
	}
}
