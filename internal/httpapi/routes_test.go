package httpapi

import (
	"strings"
	"testing"
)

// pages are routes that are not in the contract.
var pages = []string{"/", "/admin", "/docs", "/assets", "/metrics", "/openapi.yaml", "/errors"}

func TestRoutesAreThoseOfTheContract(t *testing.T) {
	t.Parallel()
	a, err := newAPI(instantConfig())
	if err != nil {
		t.Fatal(err)
	}
	engine, err := a.routes()
	if err != nil {
		t.Fatal(err)
	}
	served := map[route]bool{}
	for _, r := range engine.Routes() {
		served[route{r.Method, r.Path}] = true
		if a.operations[route{r.Method, r.Path}] == nil && !isPage(r.Path) {
			t.Errorf("%s %s is served but not in the contract", r.Method, r.Path)
		}
	}
	for r := range a.operations {
		if !served[r] {
			t.Errorf("%s %s is in the contract but not served", r.method, r.path)
		}
	}
}

func isPage(path string) bool {
	for _, page := range pages {
		if path == page || page != "/" && strings.HasPrefix(path, page+"/") {
			return true
		}
	}
	return false
}
